"""Many builds from one recipe: every combination of its lists, on one machine or on a Ray cluster."""
