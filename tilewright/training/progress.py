"""Logs how a training goes on: a line a minute, and a summary when tuning has ended."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from statistics import median
from typing import TYPE_CHECKING
from weakref import WeakSet

from tilewright.training.results import SlotReport

if TYPE_CHECKING:
    from tilewright.training.live import LivePart
    from tilewright.training.worker import Worker

__all__ = ["Progress", "find_progress"]

#: Seconds between two lines.
_EVERY = 60.0
#: Steps over which the usual length of a step is taken.
_WINDOW = 32

_log = logging.getLogger("tilewright.training")
_found: dict[int, Progress] = {}


class Progress:
    """Times the steps of the models of one worker, and logs them to ``tilewright.training``.

    Args:
        worker: prepares their parts.

    Attributes:
        before: the usual length of a step in PyTorch's kernels, in seconds; nan: not known.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.before = math.nan
        # Models that are gone, or compiled anew, do not stay in memory for this.
        self._parts: list[weakref.ref[LivePart]] = []
        self._models: WeakSet[object] = WeakSet()
        self._steps: deque[float] = deque(maxlen=_WINDOW)
        self._start = self._next = math.nan
        self._summed = False
        self._ours = 0

    @property
    def now(self) -> float:
        """The usual length of a step at present, without slots, in seconds; nan: not known."""
        return median(self._steps) if self._steps else math.nan

    @property
    def parts(self) -> list[LivePart]:
        """The parts of the models that are still there."""
        return [part for part in (known() for known in self._parts) if part is not None]

    @property
    def usual(self) -> float:
        """``before``, if it is that of all steps; nan if there are several models, whose steps differ in length."""
        return self.before if len(self._models) == 1 else math.nan

    def add(self, parts: Sequence[LivePart], model: object) -> None:
        """Count these parts of a model, too."""
        self._parts = [known for known in self._parts if known() is not None] + [*map(weakref.ref, parts)]
        self._models.add(model)

    @property
    def slots(self) -> SlotReport:
        """What was given to tuning so far."""
        worker, pace = self._worker, self._worker.pace
        return SlotReport(pace.given, pace.slots, worker.trials, worker.generations, worker.ended)

    def begin_step(self, graph: int, full: bool = False) -> float:
        """Note that a step begins with the graph of this number, and log a line if it is time for one.

        Args:
            graph: the number.
            full: whether something makes this step longer, so that there should be no slot.

        Returns:
            the seconds of the last step that began with this graph, without slots; nan: not known.
        """
        now = time.monotonic()
        if math.isnan(self._start):
            self._start, self._next = now, now + _EVERY
        seconds = self._worker.pace.begin_step(graph, full)
        self._note(seconds)
        if now >= self._next:
            self._next = now + _EVERY
            _log.info("%s", self.describe())
        ended, self._summed = self._summed, self._worker.ended
        if self._summed and not ended:
            _log.info("tuning has ended: %s", self.describe())
        return seconds

    def run(self) -> AbstractContextManager[None]:
        """A context in which a graph runs: the process that compiles is stopped meanwhile."""
        return self._worker.pace.run()

    def describe(self) -> str:
        """Where the training stands, in a line."""
        pace = self._worker.pace
        words = [f"{time.monotonic() - self._start:.0f} s"]
        if not math.isnan(self.now):
            before = "" if math.isnan(self.before) else f", {1e3 * self.before:.0f} ms in PyTorch"
            words.append(f"a step takes {1e3 * self.now:.0f} ms{before}")
        words.append(f"{pace.given:.1f} s were given to tuning, {self._worker.trials} candidates timed")
        running = sum(part.state == "running" for part in self.parts)
        words.append(f"{running} of {len(self.parts)} parts run in our kernels")
        left = [part.name for part in self.parts if part.state == "left"]
        if left:
            words.append(f"PyTorch keeps {', '.join(left)}")
        return "; ".join(words)

    def _note(self, seconds: float) -> None:
        """A step has ended."""
        if math.isnan(seconds):
            return
        ours = sum(part.counts.ours for part in self.parts)
        if not ours:
            self._steps.append(seconds)
            self.before = self.now
        else:
            if not self._ours:
                self._steps.clear()  # the first one is proven in this step
            else:
                self._steps.append(seconds)
        self._ours = ours


def find_progress(worker: Worker) -> Progress:
    """The progress of a worker's models."""
    return _found.setdefault(id(worker), Progress(worker))
