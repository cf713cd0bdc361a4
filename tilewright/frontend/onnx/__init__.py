"""ONNX files: read within limits, checked and folded in a process of their own, mended where TVM imports wrongly."""
