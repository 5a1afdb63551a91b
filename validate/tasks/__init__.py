"""What the outputs of a network mean: one module for each task, with its metric and what it says of an engine."""
