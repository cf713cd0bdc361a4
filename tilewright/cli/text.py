"""Tables and quantities as the commands print them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tilewright.difference import OutputAccuracy

__all__ = ["accuracy_table", "milliseconds", "moment", "plain", "quantity", "styled", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose first ``left`` columns are aligned to the left, and whose other columns to the right."""
    lines = [[plain(cell) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def accuracy_table(outputs: Sequence[OutputAccuracy]) -> str:
    """How outputs differ from those of another model: a line for each. A dash: there is no cosine."""
    cosines = ["-" if math.isnan(o.cosine) else f"{o.cosine:.6f}" for o in outputs]
    rows = [[o.name, cosine, f"{o.largest_relative_error:.2g}"] for o, cosine in zip(outputs, cosines, strict=True)]
    return table(["output", "cosine", "largest relative error"], rows)


def plain(text: str) -> str:
    """The text without commands for a terminal: control characters other than line breaks become U+FFFD."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def styled(text: str, style: str, stream: TextIO) -> str:
    """The text in a style of Rich, such as ``bold red``, if the stream is a terminal that shows it.

    ``NO_COLOR`` in the environment takes the colour, and ``TERM=dumb`` everything.
    """
    if not text or not stream.isatty():
        return text
    from rich.console import Console  # only where it is needed: importing it takes longer than most commands

    console = Console(file=stream)
    with console.capture() as captured:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True, end="")
    return captured.get()


def moment(seconds: float) -> str:
    """A POSIX time in local time, such as ``2026-11-29 10:38``; a dash for a time outside of the calendar."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "-"


def milliseconds(seconds: float | None) -> str:
    """A latency in milliseconds, such as ``3.142 ms``; a dash if there is none."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    return f"{1e3 * seconds:.4g} ms"


def quantity(value: float) -> str:
    """A large number with a unit prefix, such as ``231M``."""
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g}{unit}" if value < 1e15 else f"{value:.1e}"
    return f"{value:.3g}"
