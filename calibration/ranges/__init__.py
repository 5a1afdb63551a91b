"""Activation ranges: collected in one stream, chosen, kept in a table."""
