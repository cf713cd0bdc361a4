"""Compiles kernels, and builds executables from the programs of tasks."""
