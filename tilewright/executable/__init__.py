"""Executables: their files, their plans of calls, their loader and their runtime. Imports nothing of the tuner."""
