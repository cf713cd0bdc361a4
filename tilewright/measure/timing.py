"""How long one call of a kernel takes, at a cost of 10 to 100 ms.

A kernel is timed in blocks of calls; each block gives one repeat, its mean. Blocks rather than single calls, because a
clock reading and the call from Python (0.5 us) must not count against a kernel of 20 us. Several short blocks rather
than a long one, because neighbours disturb some of them, and a low quantile over blocks
(:func:`tilewright.measure.outcome.robust_seconds`) then still tells the undisturbed latency. How many blocks, says
:mod:`tilewright.measure.rule`; whether the machine was quiet, :mod:`tilewright.measure.disturbance`.

Caches are warm, as the calls before a call have left them. With ``flush`` they are cold: every call that counts has a
flush before it, and a block is a single call.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tilewright.measure.disturbance import Watch
from tilewright.measure.rule import enough

__all__ = ["SLOW_FACTOR", "Timer", "Timing", "collector_resting"]

#: A candidate whose estimate exceeds the best by this factor is dropped after it. Measured noise between two runs of
#: one kernel is up to 1.4 on a shared machine, so a factor of 2 loses no winner.
SLOW_FACTOR = 2.0
#: A first call that took longer, in seconds, is its own estimate: what a cold cache adds to it is small.
_LONG_CALL = 0.01
#: The estimate of a shorter kernel takes a block of so many seconds: one call of 50 us may as well measure how long
#: the thread pool's sleeping threads take to wake up.
_ESTIMATE_SECONDS = 0.001
#: A kernel that seems slow is looked at again for so many seconds: threads of the one before may still be asking for
#: work, and the system may have put two of this one's onto one core. Building it took 20 times as long.
_SETTLING = 0.008
#: At most so many blocks of a glance, and none is begun after so many seconds.
_GLANCE_BLOCKS, _GLANCE_SECONDS = 5, 0.015
#: Length of a block in seconds: a scheduler's tick is 1 to 4 ms, so a good part of such blocks goes undisturbed.
_BLOCK_SECONDS = 0.002


@dataclass(frozen=True)
class Timing:
    """What came of timing a kernel.

    Attributes:
        repeats: the mean seconds of a call in each block; a single one where the kernel is clearly slower.
        causes: what disturbed it, as :meth:`Watch.end` says; empty: nothing that can be seen.
    """

    repeats: tuple[float, ...]
    causes: tuple[str, ...] = ()


class Timer:
    """Times kernels, one after the other.

    Args:
        watch: sees disturbances; by default that of this machine.
        flush: empties the caches; None: they stay warm.
    """

    def __init__(self, watch: Watch | None = None, flush: Callable[[], None] | None = None) -> None:
        self._watch = Watch() if watch is None else watch
        self._flush = flush

    def first_call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
        """Seconds of one call, cold. Its outputs are the ones to check."""
        return self.block(function, arguments, 1)

    def time(self, function: Callable[..., Any], arguments: tuple[Any, ...], first: float, best: float) -> Timing:
        """Time a kernel that has been called once.

        Args:
            function: the kernel.
            arguments: what it is called with.
            first: what :meth:`first_call` took, in seconds.
            best: the latency to beat in seconds, or ``inf``.
        """
        switches = self._watch.switches
        with collector_resting():
            self._watch.begin()
            begin = time.perf_counter()
            estimate = self.estimate(function, arguments, first)
            while estimate > SLOW_FACTOR * best and first < _LONG_CALL and time.perf_counter() - begin < _SETTLING:
                estimate = min(estimate, self.estimate(function, arguments, first))
            if estimate > SLOW_FACTOR * best:
                return Timing((estimate,))
            number = self.length(estimate)
            repeats: list[float] = []
            spent, preempted = 0.0, 0
            while not enough(repeats, spent, best):
                before = switches()
                repeats.append(self.block(function, arguments, number))
                preempted += switches() > before
                spent += repeats[-1] * number
            return Timing(tuple(repeats), self._watch.end(len(repeats), preempted))

    def glance(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, ...]:
        """A few blocks of a kernel that is known to be right: the mean seconds of a call in each."""
        with collector_resting():
            number = self.length(self.estimate(function, arguments, self.block(function, arguments, 1)))
            repeats: list[float] = []
            begin = time.perf_counter()
            while not repeats or (len(repeats) < _GLANCE_BLOCKS and time.perf_counter() - begin < _GLANCE_SECONDS):
                repeats.append(self.block(function, arguments, number))
        return tuple(repeats)

    def estimate(self, function: Callable[..., Any], arguments: tuple[Any, ...], first: float) -> float:
        """About how many seconds a call takes, in about a millisecond; ``first``: what :meth:`first_call` took."""
        if first >= _LONG_CALL:
            return first
        return self.block(function, arguments, math.ceil(_ESTIMATE_SECONDS / max(first, 1e-7)))

    def turn(self, function: Callable[..., Any], arguments: tuple[Any, ...], estimate: float) -> float:
        """The mean seconds of a call in a block after another kernel's block, which has left its data in the caches."""
        if self._flush is None and estimate < _LONG_CALL:
            function(*arguments)
        return self.block(function, arguments, self.length(estimate))

    def length(self, estimate: float) -> int:
        """How many calls of so many seconds make a block."""
        return 1 if self._flush is not None else math.ceil(_BLOCK_SECONDS / max(estimate, 1e-7))

    def block(self, function: Callable[..., Any], arguments: tuple[Any, ...], number: int) -> float:
        """The mean seconds of ``number`` calls; of a single one where caches are cold."""
        if self._flush is not None:
            self._flush()
            number = 1
        calls = range(number)
        begin = time.perf_counter()
        for _ in calls:
            function(*arguments)
        return (time.perf_counter() - begin) / number


@contextmanager
def collector_resting() -> Iterator[None]:
    """Without Python's garbage collector, whose pauses would be some kernel's."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
