"""Reads ONNX files within limits, checks and folds them in a process of its own, repairs what TVM imports wrongly."""
