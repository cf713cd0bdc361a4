"""The agreement of two tasks' rankings: a measure of similarity that needs records of both, so that no command uses it.

``bench.similarity`` compares it with the measures of :mod:`tilewright.share.similarity`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.share.similarity import Measure, ProgramLikeness
from tilewright.share.transfer import comparable, distance, translate
from tilewright.space.knob import Knob
from tilewright.space.space import Configs, DesignSpace

__all__ = ["RankingAgreement", "Recorded", "ranking_agreement"]

#: The nearest measurements by which the latency of a config is estimated.
_NEAREST = 8
#: The agreement of two tasks of one template without records: the median of recorded pairs.
_USUAL = 0.36


@dataclass(frozen=True)
class Recorded:
    """The measurements of one task.

    Attributes:
        knobs: of its space.
        configs: ``(n, knobs)``.
        seconds: the ``(n,)`` latencies in seconds; nan if a config failed.
    """

    knobs: tuple[Knob, ...]
    configs: Configs
    seconds: NDArray[np.float64]


def ranking_agreement(a: Recorded, b: Recorded) -> float:
    """How well the measurements of each task rank the configs of the other: from -1 to 1, where 0 is random.

    Configs with a latency on one task are translated to the other. Their latencies there are estimated from the nearest
    eight measurements. The result is Spearman's rank correlation of both latencies, as the mean of both directions. It
    is 0 if the knobs differ, or if fewer than two configs of a task have a latency.
    """
    if not comparable(a.knobs, b.knobs):
        return 0.0
    return 0.5 * (_predicts(a, b) + _predicts(b, a))


class RankingAgreement:
    """:func:`ranking_agreement` times the square root of another measure.

    ``python -m bench.similarity`` judges the measures by how well the best configs of one task carry over to another.
    This measure is the best, before the likeness and :func:`overlap` (docs/results/sharing.md). For tasks without
    records it assumes the median agreement of recorded pairs.

    Args:
        records: by ``Task.key``.
        measure: the other measure; by default a :class:`ProgramLikeness`.
        least: the fewest measurements that a task needs for its agreement to count.
    """

    def __init__(self, records: Mapping[str, Recorded], measure: Measure | None = None, least: int = 16) -> None:
        self._records, self._least = records, least
        self._measure: Measure = ProgramLikeness() if measure is None else measure

    def __call__(self, a: DesignSpace, b: DesignSpace) -> float:
        """The similarity from 0 to 1; 0 if the other measure gives 0."""
        one, other = self._records.get(a.task.key), self._records.get(b.task.key)
        known = one is not None and other is not None and min(len(one.seconds), len(other.seconds)) >= self._least
        agreement = ranking_agreement(one, other) if known and one is not None and other is not None else _USUAL
        return math.sqrt(self._measure(a, b)) * max(0.0, agreement)


def _predicts(source: Recorded, target: Recorded) -> float:
    """Spearman's correlation of the source's latencies with the target's latencies around the same choices."""
    from_, to = np.isfinite(source.seconds), np.isfinite(target.seconds)
    if from_.sum() < 2 or to.sum() < 2:
        return 0.0
    rows = translate(source.knobs, source.configs[from_], target.knobs)
    apart = distance(target.knobs, rows, target.configs[to])
    near = np.argsort(apart, axis=1, kind="stable")[:, :_NEAREST]
    # The weights fall fast, because neighbouring measurements are a few doublings apart.
    weights = np.exp(-np.take_along_axis(apart, near, axis=1))
    weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    estimated = (weights * np.log(target.seconds[to])[near]).sum(axis=1)
    return _spearman(source.seconds[from_], estimated)


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The correlation of ranks; 0 if one side is constant."""
    ranks = np.stack([_ranks(x), _ranks(y)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    scale = float(np.sqrt((ranks**2).sum(axis=1).prod()))
    return float((ranks[0] * ranks[1]).sum() / scale) if scale > 0 else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ``(n,)`` places in ascending order. Equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - 0.5 * (count - 1))[place.reshape(-1)])
