"""What is told of a registration: measures, tables, pictures and the report."""
