"""What is measured of an engine beside the original."""
