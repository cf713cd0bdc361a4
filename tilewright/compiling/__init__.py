"""Compiles kernels and executables from the programs of tasks, and checks kernels on several kinds of data."""
