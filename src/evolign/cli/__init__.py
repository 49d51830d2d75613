"""The command line: what is typed (`app`) and what is printed (`show`)."""
