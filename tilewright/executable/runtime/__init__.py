"""The C code that compiled kernels need while they run (``runtime.c``; threads in ``pool.h``), and its loader."""
