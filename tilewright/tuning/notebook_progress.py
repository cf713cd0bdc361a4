"""Progress in a notebook: a bar and a few lines that change in their place, in plain HTML without widgets."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from html import escape
from types import TracebackType
from typing import Protocol, cast

from tilewright.tuning.progress import Progress, SilentProgress, TuneState, describe_state

__all__ = ["NotebookProgress", "default_progress"]


class Handle(Protocol):
    """What IPython's ``display(..., display_id=True)`` returns."""

    def update(self, obj: object) -> None:
        """Show another object in the place of the first."""
        ...


class NotebookProgress:
    """A bar of the seconds that have passed, and what the terminal's display says.

    Args:
        show: shows HTML in the notebook, and returns a handle to exchange it.
        wrap: makes the object that the notebook shows, of HTML.
    """

    def __init__(self, show: Callable[[object], Handle], wrap: Callable[[str], object]) -> None:
        self._show, self._wrap = show, wrap
        self._handle: Handle | None = None
        self._total = 0.0
        self._lines: list[str] = []

    def __enter__(self) -> NotebookProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The last state stays."""

    def update(self, state: TuneState) -> None:
        """Show ``state`` in the place of the last one."""
        if math.isfinite(state.remaining):
            self._total = max(self._total, state.remaining)
        passed = 1.0 - state.remaining / self._total if self._total and math.isfinite(state.remaining) else None
        bar = "" if passed is None else f'<progress value="{passed:.3f}" max="1" aria-label="budget"></progress> '
        self._put(f"<div>{bar}{escape(describe_state(state))}</div>")

    def announce(self, lines: Sequence[str], *, detail: bool = False) -> None:
        """Keep ``lines`` above the bar; details are left out."""
        if not detail:
            self._lines += lines
            self._put("")

    def _put(self, html: str) -> None:
        above = "".join(f"<div>{escape(line)}</div>" for line in self._lines)
        made = self._wrap(f"<div>{above}{html}</div>")
        if self._handle is None:
            self._handle = self._show(made)
        else:
            self._handle.update(made)


def default_progress() -> Progress:
    """What a call from Python shows: a bar in a notebook, and nothing elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return SilentProgress()
    from IPython.display import HTML, display

    def show(made: object) -> Handle:
        return cast(Handle, display(made, display_id=True))

    return NotebookProgress(show, HTML)
