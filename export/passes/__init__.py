"""The rewriting passes, one a file, and the list of them in order."""
