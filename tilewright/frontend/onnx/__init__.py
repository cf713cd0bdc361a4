"""Reads ONNX files within limits, checks and folds them in a process of its own, and rewrites them for the importer."""
