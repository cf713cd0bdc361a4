"""Logs how a training goes on: a line a minute, and a summary when tuning has ended."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from tilewright.training.results import SlotReport

if TYPE_CHECKING:
    from tilewright.training.lengths import StepLengths
    from tilewright.training.live import LivePart
    from tilewright.training.worker import Worker

__all__ = ["Progress"]

#: Seconds between two lines.
_EVERY = 60.0

_log = logging.getLogger("tilewright.training")


class Progress:
    """Logs the steps of the models of one worker to ``tilewright.training``.

    Args:
        worker: prepares their parts.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # Models that are gone, or compiled anew, do not stay in memory for this.
        self._parts: list[weakref.ref[LivePart]] = []
        self._start = self._next = math.nan
        self._summed = False

    @property
    def parts(self) -> list[LivePart]:
        """The parts of the models that are still there."""
        return [part for part in (known() for known in self._parts) if part is not None]

    def add(self, parts: Sequence[LivePart]) -> None:
        """Count these parts, too."""
        self._parts = [known for known in self._parts if known() is not None] + [*map(weakref.ref, parts)]

    @property
    def slots(self) -> SlotReport:
        """What was given to tuning so far."""
        worker, pace = self._worker, self._worker.pace
        return SlotReport(pace.given, pace.slots, worker.trials, worker.generations, worker.ended)

    def begin_step(self, steps: StepLengths, full: bool = False) -> float:
        """Note that a step begins, and log a line if it is time for one.

        Args:
            steps: those that begin with the same graph.
            full: whether something makes this step longer, so that there should be no slot.

        Returns:
            the seconds of the last step that began with this graph, without slots; nan: not known.
        """
        now = time.monotonic()
        if math.isnan(self._start):
            self._start, self._next = now, now + _EVERY
        seconds = self._worker.pace.begin_step(steps, full)
        if now >= self._next:
            self._next = now + _EVERY
            _log.info("%s", self.describe(steps))
        ended, self._summed = self._summed, self._worker.ended
        if self._summed and not ended:
            _log.info("tuning has ended: %s", self.describe(steps))
        return seconds

    def run(self) -> AbstractContextManager[None]:
        """A context in which a graph runs: the process that compiles is stopped meanwhile."""
        return self._worker.pace.run()

    def describe(self, steps: StepLengths) -> str:
        """Where the training stands, in a line.

        Args:
            steps: of the model that trains now.
        """
        pace = self._worker.pace
        words = [f"{time.monotonic() - self._start:.0f} s"]
        if not math.isnan(steps.now):
            before = "" if math.isnan(steps.before) else f", {1e3 * steps.before:.0f} ms in PyTorch"
            words.append(f"a step takes {1e3 * steps.now:.0f} ms{before}")
        words.append(f"{pace.given:.1f} s were given to tuning, {self._worker.trials} candidates timed")
        parts = self.parts
        running = sum(part.state == "running" for part in parts)
        words.append(f"{running} of {len(parts)} parts run in our kernels")
        left = [part.name for part in parts if part.state == "left"]
        if left:
            words.append(f"PyTorch keeps {', '.join(left)}")
        return "; ".join(words)
