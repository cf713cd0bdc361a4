"""Reads ONNX files within limits, checks and rewrites them in a process of their own, and imports them as Relax."""
