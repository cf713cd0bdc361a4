"""How long one call of a kernel takes, at a cost of 10 to 100 ms.

A kernel is timed in blocks of calls. Each block gives one repeat: the mean seconds of its calls.

- Blocks rather than single calls, because reading the clock and calling from Python (0.5 us) must not count against a
  kernel of 20 us.
- Several short blocks rather than a long one, because other programs disturb some of them. A low quantile over blocks
  (:func:`tilewright.measure.outcome.robust_seconds`) then still tells the undisturbed latency.

:mod:`tilewright.measure.rule` says how many blocks are enough, and :mod:`tilewright.measure.disturbance` whether the
machine was quiet.

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
from typing import TypeAlias

from tilewright.measure.disturbance import Watch
from tilewright.measure.rule import enough

__all__ = ["SLOW_FACTOR", "Function", "Tensors", "Timer", "Timing", "collector_resting"]

#: A kernel, and the tensors that it is called with.
Function: TypeAlias = Callable[..., object]
Tensors: TypeAlias = tuple[object, ...]

#: A candidate whose estimate exceeds the best by this factor is dropped after it. Two runs of one kernel on a shared
#: machine differed by a factor of up to 1.4, so no winner is lost.
SLOW_FACTOR = 2.0
#: A first call that took more seconds is its own estimate: a cold cache adds only a small part to it.
_LONG_CALL = 0.01
#: The estimate of a shorter kernel takes a block of so many seconds: a single call of 50 us would measure how long the
#: sleeping threads of the pool take to wake up.
_ESTIMATE_SECONDS = 0.001
#: The seconds in which a kernel that seems slow is estimated again: threads of the kernel before may still be asking
#: for work, and the system may have put two threads of this one onto one core. Building it took 20 times as long.
_SETTLING = 0.008
#: The largest number of blocks of a glance, and the seconds after which none of them begins (a choice).
_GLANCE_BLOCKS, _GLANCE_SECONDS = 5, 0.015
#: The seconds of a block. A scheduler's tick is 1 to 4 ms, so a good part of such blocks goes undisturbed.
_BLOCK_SECONDS = 0.002
#: The least seconds of a call that numbers of calls are computed from, because clocks may read 0.
_LEAST_SECONDS = 1e-7


@dataclass(frozen=True)
class Timing:
    """What came of timing a kernel.

    Attributes:
        repeats: the mean seconds of a call in each block; a single one if the kernel is clearly slower.
        causes: what disturbed it, as :meth:`Watch.end` says; empty if nothing was seen.
    """

    repeats: tuple[float, ...]
    causes: tuple[str, ...] = ()


class Timer:
    """Times kernels, one after the other.

    Args:
        watch: sees disturbances; by default a watch of this machine.
        flush: empties the caches; None: they stay warm.
    """

    def __init__(self, watch: Watch | None = None, flush: Callable[[], None] | None = None) -> None:
        self._watch = Watch() if watch is None else watch
        self._flush = flush

    def first_call(self, function: Function, arguments: Tensors) -> float:
        """The seconds of one call with cold caches. Its outputs are the ones to check."""
        return self.block(function, arguments, 1)

    def time(self, function: Function, arguments: Tensors, first: float, best: float) -> Timing:
        """Time a kernel that has been called once.

        Args:
            function: the kernel.
            arguments: what it is called with.
            first: the seconds of :meth:`first_call`.
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
            number = self.block_length(estimate)
            repeats: list[float] = []
            spent, preempted = 0.0, 0
            while not enough(repeats, spent, best):
                before = switches()
                repeats.append(self.block(function, arguments, number))
                preempted += switches() > before
                spent += repeats[-1] * number
            return Timing(tuple(repeats), self._watch.end(len(repeats), preempted))

    def glance(self, function: Function, arguments: Tensors) -> tuple[float, ...]:
        """A few blocks of a kernel that is known to be right: the mean seconds of a call in each."""
        with collector_resting():
            number = self.block_length(self.estimate(function, arguments, self.block(function, arguments, 1)))
            repeats: list[float] = []
            begin = time.perf_counter()
            while not repeats or (len(repeats) < _GLANCE_BLOCKS and time.perf_counter() - begin < _GLANCE_SECONDS):
                repeats.append(self.block(function, arguments, number))
        return tuple(repeats)

    def estimate(self, function: Function, arguments: Tensors, first: float) -> float:
        """About how many seconds a call takes, in about a millisecond.

        Args:
            function: the kernel.
            arguments: what it is called with.
            first: the seconds of :meth:`first_call`.
        """
        if first >= _LONG_CALL:
            return first
        return self.block(function, arguments, math.ceil(_ESTIMATE_SECONDS / max(first, _LEAST_SECONDS)))

    def turn(self, function: Function, arguments: Tensors, estimate: float) -> float:
        """The mean seconds of a call in a block after another kernel's block, which has left its data in the caches."""
        if self._flush is None and estimate < _LONG_CALL:
            function(*arguments)
        return self.block(function, arguments, self.block_length(estimate))

    def block_length(self, estimate: float) -> int:
        """The number of calls in a block, if a call takes ``estimate`` seconds."""
        return 1 if self._flush is not None else math.ceil(_BLOCK_SECONDS / max(estimate, _LEAST_SECONDS))

    def block(self, function: Function, arguments: Tensors, number: int) -> float:
        """The mean seconds of ``number`` calls; of a single call if caches are cold."""
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
    """Stop Python's garbage collector, whose pauses would count against some kernel."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
