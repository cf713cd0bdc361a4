"""Runs the command ``tilewright`` as ``python -m tilewright.cli``."""

from tilewright.cli import main

main()
