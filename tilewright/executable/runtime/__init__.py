"""What compiled kernels need while they run, in C: see ``runtime.c``, and ``pool.h`` for its threads."""
