"""The paper's table on any data set, each registration measured in a process of its own."""
