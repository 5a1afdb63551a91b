"""ONNX files that nobody vouches for: read in bounds, checked, lifted to one opset and simplified."""
