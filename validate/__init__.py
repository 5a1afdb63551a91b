"""An engine is held against the original: parity, accuracy, latency, drift, gates, report."""
