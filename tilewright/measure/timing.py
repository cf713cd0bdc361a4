"""How long one call of a kernel takes, at a cost of 10 to 100 ms.

A kernel is timed in blocks of calls with warm caches; each block gives one repeat, its mean. Blocks rather than single
calls, because a clock reading and the call from Python (0.5 us) must not count against a kernel of 20 us. Several short
blocks rather than a long one, because neighbours disturb some of them, and a low quantile over blocks
(:func:`tilewright.measure.outcome.robust_seconds`) then still tells the undisturbed latency.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from typing import Any

__all__ = ["SLOW_FACTOR", "first_call", "time_calls"]

#: A candidate whose estimate exceeds the best by this factor is dropped after it. Measured noise between two runs of
#: one kernel is up to 1.4 on a shared machine, so a factor of 2 loses no winner.
SLOW_FACTOR = 2.0
#: After a few whole blocks less doubt is left, and a smaller factor ends it.
_HOPELESS_FACTOR = 1.4
_HOPELESS_BLOCKS = 3
#: A first call that took longer, in seconds, is its own estimate: what a cold cache adds to it is small.
_LONG_CALL = 0.01
#: The estimate of a shorter kernel takes a block of so many seconds: one call of 50 us may as well measure how long
#: the thread pool's sleeping threads take to wake up.
_ESTIMATE_SECONDS = 0.001
#: Length of a block in seconds: a scheduler's tick is 1 to 4 ms, so a good part of such blocks goes undisturbed.
_BLOCK_SECONDS = 0.002
#: At most so many blocks, and none is begun after so many seconds (two, where a single call takes longer).
_MOST_BLOCKS = 10
_MOST_SECONDS = 0.06
_LEAST_BLOCKS = 2
#: The kernel's latency is settled when, out of at least 5 blocks, the three fastest agree within 1 %.
_SETTLED_BLOCKS = 5
_SETTLED_SPREAD = 1.01


def first_call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """Seconds of one call, cold. Its outputs are the ones to check."""
    return _block(function, arguments, 1)


def time_calls(
    function: Callable[..., Any], arguments: tuple[Any, ...], first: float, best: float
) -> tuple[float, ...]:
    """Time a kernel that has been called once.

    Args:
        function: the kernel.
        arguments: what it is called with.
        first: what :func:`first_call` took, in seconds.
        best: the latency to beat in seconds, or ``inf``.

    Returns:
        the mean seconds of a call in each block; a single one where the kernel is clearly slower than ``best``.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        estimate = first
        if first < _LONG_CALL:
            estimate = _block(function, arguments, math.ceil(_ESTIMATE_SECONDS / max(first, 1e-7)))
        if estimate > SLOW_FACTOR * best:
            return (estimate,)
        number = math.ceil(_BLOCK_SECONDS / max(estimate, 1e-7))
        repeats: list[float] = []
        spent = 0.0
        while len(repeats) < _MOST_BLOCKS and (spent < _MOST_SECONDS or len(repeats) < _LEAST_BLOCKS):
            repeats.append(_block(function, arguments, number))
            spent += repeats[-1] * number
            if len(repeats) >= _HOPELESS_BLOCKS and min(repeats) > _HOPELESS_FACTOR * best:
                break
            if len(repeats) >= _SETTLED_BLOCKS and sorted(repeats)[2] <= _SETTLED_SPREAD * min(repeats):
                break
        return tuple(repeats)
    finally:
        if collecting:
            gc.enable()


def _block(function: Callable[..., Any], arguments: tuple[Any, ...], number: int) -> float:
    calls = range(number)
    begin = time.perf_counter()
    for _ in calls:
        function(*arguments)
    return (time.perf_counter() - begin) / number
