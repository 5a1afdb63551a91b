"""A trained model becomes a deploy graph: zoo, capture, simplify, recognise, lower, type."""
