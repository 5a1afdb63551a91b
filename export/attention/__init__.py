"""Channel attention: recognised by what a graph computes, and lowered for a target."""
