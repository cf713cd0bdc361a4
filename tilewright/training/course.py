"""Keeps the times of a model's steps, and when its parts began to run in another way: little memory, however many."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from tilewright.training.results import ChangeReport, StepsReport

if TYPE_CHECKING:
    from tilewright.training.live import LivePart

__all__ = ["Course"]

#: Pieces of a course. When there are more, each two neighbours become one. (A choice: a page draws no more.)
_MOST = 400
#: Changes that are kept: a part that is about as fast as PyTorch's may change often. (A choice.)
_MOST_CHANGES = 300


@dataclass
class _Piece:
    """Steps that followed each other, see :class:`StepsReport`."""

    begin: float
    lengths: list[float]
    end: float = 0.0
    ours: int = 0
    given: float = 0.0

    def close(self) -> StepsReport:
        """What is kept of it."""
        lengths = self.lengths
        return StepsReport(
            self.begin,
            self.end,
            len(lengths),
            median(lengths),
            min(lengths),
            max(lengths),
            self.ours,
            self.given,
        )


class Course:
    """The times of the steps that begin with one graph.

    Attributes:
        changes: of the parts of the steps, in order.
    """

    def __init__(self) -> None:
        self.changes: list[ChangeReport] = []
        self._start = math.nan
        self._pieces: list[StepsReport] = []
        self._piece: _Piece | None = None
        self._together = 1
        self._states: dict[str, str] = {}
        self._lock = threading.Lock()

    def note(self, seconds: float, given: float, parts: Iterable[LivePart]) -> None:
        """Note that a step begins.

        Args:
            seconds: the length of the last step, without slots; NaN: not known.
            given: the seconds that were given to tuning so far.
            parts: of the steps.
        """
        if not self._lock.acquire(blocking=False):  # several threads train, and another one notes its step
            return
        try:
            self._note(seconds, given, parts)
        finally:
            self._lock.release()

    def _note(self, seconds: float, given: float, parts: Iterable[LivePart]) -> None:
        now = time.monotonic()
        if math.isnan(self._start):
            self._start = now
        t = now - self._start
        ours = self._note_states(t, parts)
        if math.isnan(seconds):
            return
        if self._piece is not None and self._piece.ours != ours:
            self._close()  # the steps before and after a change are not mixed
        if self._piece is None:
            self._piece = _Piece(max(0.0, t - seconds), [])
        piece = self._piece
        piece.lengths.append(seconds)
        piece.end, piece.ours, piece.given = t, ours, given
        if len(piece.lengths) >= self._together:
            self._close()

    @property
    def pieces(self) -> tuple[StepsReport, ...]:
        """The steps so far, in their order."""
        with self._lock:
            piece = self._piece
            return (*self._pieces, *([] if piece is None else [piece.close()]))

    def _note_states(self, t: float, parts: Iterable[LivePart]) -> int:
        """Note which parts changed. Returns how many run in our kernels."""
        ours = 0
        for part in parts:
            state: str = part.state
            if state == "running":
                state = "slower" if part.slower else "running"
                ours += state == "running"
            if state == self._states.get(part.name):
                continue
            self._states[part.name] = state
            if state in ("running", "slower", "left") and len(self.changes) < _MOST_CHANGES:
                self.changes.append(ChangeReport(t, part.name, state))
        return ours

    def _close(self) -> None:
        assert self._piece is not None
        self._pieces.append(self._piece.close())
        self._piece = None
        if len(self._pieces) >= _MOST:
            self._pieces = list(_halve(self._pieces))
            self._together *= 2


def _halve(pieces: list[StepsReport]) -> Iterable[StepsReport]:
    """Each two neighbours as one. The median of both is between theirs; what is between them is good enough to draw."""
    for first, second in zip(pieces[::2], pieces[1::2], strict=False):
        steps = first.steps + second.steps
        typical = (first.seconds * first.steps + second.seconds * second.steps) / steps
        yield StepsReport(
            first.begin,
            second.end,
            steps,
            typical,
            min(first.shortest, second.shortest),
            max(first.longest, second.longest),
            second.ours,
            second.given,
        )
    if len(pieces) % 2:
        yield pieces[-1]
