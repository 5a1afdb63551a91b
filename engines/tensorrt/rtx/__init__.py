"""What TensorRT for RTX is given in another spelling, because its compiler makes more of that one."""
