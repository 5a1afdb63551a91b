"""What the outputs of readers and detectors say: text, and boxes."""
