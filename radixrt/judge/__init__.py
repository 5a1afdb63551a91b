"""An engine held against the original."""
