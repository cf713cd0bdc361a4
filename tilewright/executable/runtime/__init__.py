"""The C code that compiled kernels need while they run (``runtime.c``, with its threads in ``pool.h``), and its loader."""
