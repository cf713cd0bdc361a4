"""How good a cost model is at what a search needs of it: the order of programs, above all at the fast end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.dataset import TaskData
from tilewright.cost.model import CostModel

__all__ = ["Quality", "bootstrap", "evaluate", "pairwise_accuracy", "quality", "recall_at", "top_regret"]

#: Programs compared with all others at a time.
_ROWS = 1024


@dataclass(frozen=True)
class Quality:
    """How well scores rank the programs of one task; nan where it has too few latencies to tell.

    Attributes:
        pairwise_accuracy: see :func:`pairwise_accuracy`.
        recall_at_10: see :func:`recall_at`.
        top1_regret: see :func:`top_regret`.
    """

    pairwise_accuracy: float
    recall_at_10: float
    top1_regret: float


def evaluate(model: CostModel, tasks: Sequence[TaskData]) -> list[Quality]:
    """How well a model ranks the programs of each task."""
    return [quality(model.predict(task.nest), task.seconds) for task in tasks]


def quality(scores: NDArray[np.float64], seconds: NDArray[np.float64]) -> Quality:
    """How well ``(n,)`` scores (higher is faster) rank programs of ``(n,)`` latencies; failures (nan) do not count."""
    ok = np.isfinite(seconds)
    scores, seconds = scores[ok], seconds[ok]
    if len(seconds) < 2:
        return Quality(np.nan, np.nan, np.nan)
    return Quality(pairwise_accuracy(scores, seconds), recall_at(scores, seconds, 10), top_regret(scores, seconds))


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


def bootstrap(values: Sequence[float], seed: int = 0, samples: int = 2000) -> tuple[float, float, float]:
    """The mean of values (nan left out) and its 95 % bootstrap interval: mean, low, high; all nan without values."""
    kept = np.asarray([value for value in values if np.isfinite(value)])
    if len(kept) == 0:
        return float("nan"), float("nan"), float("nan")
    drawn = np.random.default_rng(seed).choice(kept, size=(samples, len(kept))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(kept.mean()), float(low), float(high)
