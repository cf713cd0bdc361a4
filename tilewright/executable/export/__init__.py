"""Writes an executable as a library for C: the shared library, its header, and the files that build tools read."""
