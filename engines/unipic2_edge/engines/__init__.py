"""Compiles a bundle's graphs for targets: here the `cpu` target, through ONNX Runtime."""
