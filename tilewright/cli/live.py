"""What ``tilewright tune --live`` does: the page of the run, in a browser on this machine, while it goes on."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilewright.report.content import Page
    from tilewright.tuning.progress import Progress, TuneState
    from tilewright.tuning.run_events import Event

__all__ = ["PORT", "LiveProgress"]

#: The port that is tried first.
PORT = 8377
#: Seconds that the end of the run waits for browsers that follow.
_LAST = 3.0


class LiveProgress:
    """Shows the progress as another display does, and serves it as a page besides.

    Args:
        inner: the display.
        name: of the model.
        budget_seconds: of the budget; None: no time limit.
        port: that is tried first.

    Raises:
        MissingExtraError: the extra ``live`` is not installed.
        OutputError: no port is free.
    """

    def __init__(self, inner: Progress, name: str, budget_seconds: float | None, port: int = PORT) -> None:
        from tilewright.report.history import History
        from tilewright.report.serving import PageServer

        self._inner, self._name, self._budget = inner, name, budget_seconds
        self._history, self._lock = History(), threading.Lock()
        self._out: Path | None = None
        self._server = PageServer(self._page, port=port)
        self._server.__enter__()
        moved = f" (port {port} is taken)" if self._server.port != port else ""
        print(f"live page{moved}: {self._server.address}", file=sys.stderr, flush=True)

    def __enter__(self) -> LiveProgress:
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.__exit__(kind, error, trace)

    def update(self, state: TuneState) -> None:
        """Show ``state`` in the display."""
        self._inner.update(state)

    def announce(self, lines: Sequence[str], *, detail: bool = False) -> None:
        """Show ``lines`` in the display."""
        self._inner.announce(lines, detail=detail)

    def hear(self, event: Event) -> None:
        """Take in an event, and tell browsers."""
        with self._lock:
            self._history.add(event)
        self._server.changed()

    def finish(self, out: Path | None) -> None:
        """Show the page of the executable in ``out`` to browsers that follow, and end. None: there is none."""
        self._out = out
        self._server.changed()
        self._server.wait_for_readers(_LAST)
        self._server.__exit__(None, None, None)

    def _page(self, _: Mapping[str, str]) -> Page:
        from tilewright.report.run import make_live_run, read_run
        from tilewright.report.run_page import run_page

        if self._out is not None:
            # The page that stays in the browser follows no longer.
            return run_page(read_run(self._out))
        with self._lock:
            history = copy.deepcopy(self._history)
        phase = history.running()
        state = "" if phase is None else f"{phase.name}, {history.end:.0f} s"
        return run_page(make_live_run(history, self._name, self._budget), live=".", state=state or "begins")
