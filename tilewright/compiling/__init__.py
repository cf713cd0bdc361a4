"""Kernels and whole executables from tasks and their chosen configs."""
