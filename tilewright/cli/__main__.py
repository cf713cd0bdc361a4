"""``python -m tilewright.cli``: the same as ``tilewright``."""

from tilewright.cli import main

main()
