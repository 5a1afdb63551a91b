"""A graph and images become ranges and Q/DQ pairs: data, observers, ranges, placement, sensitivity, table."""
