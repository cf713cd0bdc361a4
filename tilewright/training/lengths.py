"""The lengths of the steps of one model: in PyTorch's kernels, and now."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from statistics import median

__all__ = ["WINDOW", "StepLengths", "find_usual"]

#: Steps over which the usual length of a step is taken: the shorter one of both.
WINDOW, _RECENT = 32, 3


def find_usual(lengths: Collection[float]) -> float:
    """The usual one of the last :data:`WINDOW` lengths, in seconds; nan: there are none.

    Steps have just become shorter if our kernels have replaced PyTorch's. So the last three count if they are shorter.
    """
    last = list(lengths)
    return min(median(last), median(last[-_RECENT:])) if last else math.nan


class StepLengths:
    """The lengths of the steps that begin with one graph, without slots, in seconds.

    Args:
        inference: whether no gradients are computed in these steps. They are no steps of a training.

    Attributes:
        inference: as above.
        before: the usual length in PyTorch's kernels; nan: not known.
        ours: how often parts of these steps have run in our kernels so far. Whoever begins a step sets it.
    """

    def __init__(self, inference: bool = False) -> None:
        self.inference = inference
        self.before = math.nan
        self.ours = self._ours = 0
        self._steps: deque[float] = deque(maxlen=WINDOW)
        self._began = self._given = math.nan
        self._traced = False

    @property
    def now(self) -> float:
        """The usual length at present; nan: not known."""
        return median(self._steps) if self._steps else math.nan

    @property
    def gained(self) -> float:
        """How many times as long the steps took in PyTorch's kernels; 1: not known, or they took no longer."""
        ratio = self.before / find_usual(self._steps)  # nan if either is not known
        return ratio if ratio > 1.0 else 1.0

    def begin(self, now: float, given: float) -> None:
        """Note that a step begins.

        Args:
            now: the time.
            given: the seconds of all slots so far, the one before this step included.
        """
        self._began, self._given = now, given

    def end(self, now: float, given: float) -> float:
        """Note that the last step ends, since another one will begin.

        Args:
            now: the time.
            given: the seconds of all slots so far.

        Returns:
            its length; nan: there was none, or PyTorch has traced the model in it.
        """
        if math.isnan(self._began):
            return math.nan
        traced, self._traced = self._traced, True
        if not traced:
            return math.nan
        length = now - self._began - (given - self._given)
        if not self.ours:
            self._steps.append(length)
            self.before = self.now
        elif not self._ours:
            self._steps.clear()  # a part is proven in the first one
        else:
            self._steps.append(length)
        self._ours = self.ours
        return length
