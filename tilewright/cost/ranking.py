"""How well scores rank programs: the measures, on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pairwise_accuracy", "recall_at", "top_regret"]


def pairwise_accuracy(scores: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    """Of all pairs of programs with different latencies, how many have their scores in the same order.

    A pair with equal scores counts half; nan where no latencies differ. 0.5 is guessing.
    """
    faster = np.sign(seconds[None, :] - seconds[:, None])
    better = np.sign(scores[:, None] - scores[None, :])
    counted = faster != 0
    if not counted.any():
        return float("nan")
    return float((0.5 + 0.5 * (faster * better)[counted]).mean())


def recall_at(scores: NDArray[np.float64], seconds: NDArray[np.float64], count: int) -> float:
    """How many of the ``count`` fastest programs are among the ``count`` with the highest scores, as a share."""
    count = min(count, len(seconds))
    fastest = set(np.argsort(seconds, kind="stable")[:count].tolist())
    return len(fastest.intersection(np.argsort(-scores, kind="stable")[:count].tolist())) / count


def top_regret(scores: NDArray[np.float64], seconds: NDArray[np.float64], count: int = 1) -> float:
    """How much slower than the fastest program the best of the ``count`` with the highest scores is: 0.1 is 10 %."""
    return float(seconds[np.argsort(-scores, kind="stable")[:count]].min() / seconds.min() - 1.0)
