"""Measures of how well scores rank programs, on arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["pairwise_accuracy", "recall_at", "top_regret"]

#: The programs that are compared with all others at a time. All pairs of 50,000 programs would take 20 GB.
_ROWS = 1024


def pairwise_accuracy(scores: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    """The share of pairs whose scores are in the order of their latencies, of all pairs with different latencies.

    A pair with equal scores, or with a score of nan, counts half. Guessing gives 0.5. The result is nan if no latencies
    differ.

    Args:
        scores: the ``(n,)`` predictions, where higher is faster.
        seconds: the ``(n,)`` latencies in seconds.
    """
    right, counted = 0.0, 0
    for start in range(0, len(seconds), _ROWS):
        rows = slice(start, start + _ROWS)
        faster = seconds[rows, None] < seconds[None, :]
        higher, lower = scores[rows, None] > scores[None, :], scores[rows, None] < scores[None, :]
        count = int(faster.sum())
        counted += count
        right += 0.5 * (count + int((faster & higher).sum()) - int((faster & lower).sum()))
    return right / counted if counted else float("nan")


def recall_at(scores: NDArray[np.float64], seconds: NDArray[np.float64], count: int) -> float:
    """The share of the ``count`` programs with the highest scores that is as fast as the ``count`` fastest.

    Equal scores are ordered by lot; the result is the expected share. It is nan if there are no more than ``count``
    programs, because any scores then have all of them.

    Args:
        scores: the ``(n,)`` predictions, where higher is faster.
        seconds: the ``(n,)`` latencies in seconds.
        count: how many programs are looked at.
    """
    if len(seconds) <= count:
        return float("nan")
    fastest = seconds <= np.partition(seconds, count - 1)[count - 1]
    above, tied, places = _top(scores, count)
    return float((fastest[above].sum() + places * fastest[tied].mean()) / count)


def top_regret(scores: NDArray[np.float64], seconds: NDArray[np.float64], count: int = 1) -> float:
    """How much slower the best of the ``count`` programs with the highest scores is than the fastest; 0.1 is 10 %.

    Equal scores are ordered by lot; the result is the expected value. It is nan if the fastest latency is 0.

    Args:
        scores: the ``(n,)`` predictions, where higher is faster.
        seconds: the ``(n,)`` latencies in seconds.
        count: how many programs are looked at.
    """
    fastest = float(seconds.min())
    if fastest == 0.0:
        return float("nan")
    above, tied, places = _top(scores, min(count, len(seconds)))
    best = float(np.min(seconds[above], initial=np.inf))
    # The chance that the fastest of the drawn programs is the i-th fastest of those with equal scores.
    among = np.sort(seconds[tied])
    ways = [math.comb(len(among) - 1 - i, places - 1) for i in range(len(among))]
    chances = np.asarray([way / math.comb(len(among), places) for way in ways])
    return float((chances * np.minimum(among, best)).sum() / fastest - 1.0)


def _top(scores: NDArray[np.float64], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """The rows of the ``count`` highest scores.

    A score of nan is below all others.

    Returns:
        the rows that are surely among them, the rows whose equal scores share the last places, and the number of these
        places.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    last = np.partition(scores, len(scores) - count)[len(scores) - count]
    above, tied = np.flatnonzero(scores > last), np.flatnonzero(scores == last)
    return above, tied, count - len(above)
