"""The optimisers, one file a method; all yield fields from a level and a field."""
