"""A trained PyTorch network: found by name, built, given its weights and captured as ONNX."""
