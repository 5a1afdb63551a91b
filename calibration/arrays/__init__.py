"""Arrays that somebody else prepared, one for each input of a network."""
