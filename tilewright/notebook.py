"""HTML for notebooks: tables in the notebook's own style, with every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["html_table"]


def html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "", most: int = 40) -> str:
    """A table as HTML.

    Args:
        title: what it shows.
        head: the names of the columns; empty: it has none.
        rows: texts; the first of a row is its name.
        note: a sentence below it; empty: none.
        most: rows that are shown. The others are counted.
    """
    top = "".join(f'<th scope="col" style="text-align:left">{escape(name)}</th>' for name in head)
    lines = []
    for name, *cells in rows[:most]:
        inner = "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in cells)
        lines.append(f'<tr><th scope="row" style="text-align:left;font-weight:normal">{escape(name)}</th>{inner}</tr>')
    more = f"and {len(rows) - most} more. " if len(rows) > most else ""
    below = f"<p>{escape(more + note)}</p>" if more or note else ""
    head_row = f"<thead><tr>{top}</tr></thead>" if head else ""
    return (
        f'<div><table><caption style="text-align:left;font-weight:bold">{escape(title)}</caption>{head_row}'
        f"<tbody>{''.join(lines)}</tbody></table>{below}</div>"
    )
