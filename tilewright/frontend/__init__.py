"""Reads models: a file, a Relax module or a PyTorch program becomes a ``Network`` with fixed shapes."""
