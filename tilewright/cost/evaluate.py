"""Judges cost models by what a search needs of them: the order of programs, above all of the fast ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.dataset import TaskData
from tilewright.cost.model import CostModel
from tilewright.cost.ranking import pairwise_accuracy, recall_at, top_regret

__all__ = ["Quality", "bootstrap", "evaluate", "pairwise_accuracy", "quality", "recall_at", "top_regret"]


@dataclass(frozen=True)
class Quality:
    """How well scores rank the programs of one task; nan if the task has too few latencies.

    Attributes:
        pairwise_accuracy: see :func:`pairwise_accuracy`.
        recall_at_10: see :func:`recall_at`.
        top1_regret: see :func:`top_regret`.
    """

    pairwise_accuracy: float
    recall_at_10: float
    top1_regret: float


def evaluate(model: CostModel, tasks: Sequence[TaskData]) -> list[Quality]:
    """The quality of a model's scores on each task."""
    return [quality(model.predict(task.nest), task.seconds) for task in tasks]


def quality(scores: NDArray[np.float64], seconds: NDArray[np.float64]) -> Quality:
    """The quality of ``(n,)`` scores (higher is faster) of programs with ``(n,)`` latencies; nan does not count."""
    ok = np.isfinite(seconds)
    scores, seconds = scores[ok], seconds[ok]
    if len(seconds) < 2:
        return Quality(np.nan, np.nan, np.nan)
    return Quality(pairwise_accuracy(scores, seconds), recall_at(scores, seconds, 10), top_regret(scores, seconds))


def bootstrap(values: Sequence[float], seed: int = 0, samples: int = 2000) -> tuple[float, float, float]:
    """The mean of values with its 95 % bootstrap interval.

    Args:
        values: of which nan does not count.
        seed: of the resampling.
        samples: the number of resamplings.

    Returns:
        mean, low, high; all nan without values.
    """
    kept = np.asarray([value for value in values if np.isfinite(value)])
    if len(kept) == 0:
        return float("nan"), float("nan"), float("nan")
    drawn = np.random.default_rng(seed).choice(kept, size=(samples, len(kept))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(kept.mean()), float(low), float(high)
