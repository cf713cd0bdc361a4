"""What compiled kernels need while they run, in C: see ``runtime.c``."""
