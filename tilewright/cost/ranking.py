"""How well scores rank programs: the measures, on arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["pairwise_accuracy", "recall_at", "top_regret"]

#: Programs compared with all others at a time.
_ROWS = 1024


def pairwise_accuracy(scores: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    """Of all pairs of programs with different latencies, how many have their scores in the same order.

    A pair with equal scores, or one that is nan, counts half; nan where no latencies differ. 0.5 is guessing.
    """
    right, counted = 0.0, 0
    # Some rows of all pairs at a time: those of 50,000 programs would take 20 GB.
    for start in range(0, len(seconds), _ROWS):
        rows = slice(start, start + _ROWS)
        faster = seconds[rows, None] < seconds[None, :]
        higher, lower = scores[rows, None] > scores[None, :], scores[rows, None] < scores[None, :]
        count = int(faster.sum())
        counted += count
        right += 0.5 * (count + int((faster & higher).sum()) - int((faster & lower).sum()))
    return right / counted if counted else float("nan")


def recall_at(scores: NDArray[np.float64], seconds: NDArray[np.float64], count: int) -> float:
    """How many of the ``count`` programs with the highest scores are as fast as the ``count`` fastest, as a share.

    Of equal scores those that count are drawn by lot: this is what is to be expected. nan where there are no more
    than ``count`` programs, as then any scores have all of them.
    """
    if len(seconds) <= count:
        return float("nan")
    fastest = seconds <= np.partition(seconds, count - 1)[count - 1]
    above, tied, places = _top(scores, count)
    return float((fastest[above].sum() + places * fastest[tied].mean()) / count)


def top_regret(scores: NDArray[np.float64], seconds: NDArray[np.float64], count: int = 1) -> float:
    """How much slower than the fastest program the best of the ``count`` with the highest scores is: 0.1 is 10 %.

    Of equal scores those that count are drawn by lot: this is what is to be expected. nan where the fastest takes no
    time.
    """
    fastest = float(seconds.min())
    if fastest == 0.0:
        return float("nan")
    above, tied, places = _top(scores, min(count, len(seconds)))
    best = float(np.min(seconds[above], initial=np.inf))
    # The chance that the fastest of those drawn is the i-th fastest of the equals.
    among = np.sort(seconds[tied])
    ways = [math.comb(len(among) - 1 - i, places - 1) for i in range(len(among))]
    chances = np.asarray([way / math.comb(len(among), places) for way in ways])
    return float((chances * np.minimum(among, best)).sum() / fastest - 1.0)


def _top(scores: NDArray[np.float64], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Which are certainly among the ``count`` highest scores, which share the last places, and how many those are.

    A score that is nan is below all others.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    last = np.partition(scores, len(scores) - count)[len(scores) - count]
    above, tied = np.flatnonzero(scores > last), np.flatnonzero(scores == last)
    return above, tied, count - len(above)
