"""How alike two tasks are: whether what is fast for one is fast for the other.

:func:`overlap` is the published measure (Yu, TVM conference 2019), which knows the choices only. The
others are Tilewright's own: :class:`ProgramLikeness` compares the programs that the same choices make, and
:class:`RankingAgreement` what was measured of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.features import itervar_features
from tilewright.share.transfer import comparable, distance, translate
from tilewright.space.configs import knob_values, sample
from tilewright.space.knob import Knob, SplitKnob
from tilewright.space.space import Configs, DesignSpace

__all__ = [
    "Measure",
    "ProgramLikeness",
    "RankingAgreement",
    "Recorded",
    "overlap",
    "ranking_agreement",
    "similarity_matrix",
]

#: Measurements around a config by which its latency is estimated.
_NEAREST = 8
#: A distance of programs at which they have little in common: the mean over features, most of them in doublings.
_UNLIKE = 0.5
#: The agreement of two tasks of one template of which nothing is known: the median of recorded pairs.
_USUAL = 0.36


class Measure(Protocol):
    """A similarity of tasks."""

    def __call__(self, a: DesignSpace, b: DesignSpace) -> float:
        """From 0 (nothing in common) to 1, the same for ``(b, a)``."""
        ...


def similarity_matrix(spaces: Sequence[DesignSpace], measure: Measure) -> NDArray[np.float64]:
    """``(n, n)``: the similarities of all pairs, symmetric, 1 on the diagonal."""
    matrix = np.eye(len(spaces))
    for i, a in enumerate(spaces):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = measure(a, spaces[j])
    return matrix


def overlap(a: DesignSpace, b: DesignSpace) -> float:
    """The product over knobs of the Jaccard index of their choices; 0 for different templates or knobs.

    Splits are compared without their outermost factor, so that tiles match across extents. (As published.)
    """
    if a.template != b.template or not comparable(a.knobs, b.knobs):
        return 0.0
    product = 1.0
    for one, other in zip(a.knobs, b.knobs, strict=True):
        left, right = _choices(one), _choices(other)
        product *= len(left & right) / len(left | right)
    return product


@lru_cache(maxsize=4096)
def _choices(knob: Knob) -> frozenset[tuple[int, ...]]:
    inner = isinstance(knob, SplitKnob)
    return frozenset(choice[1:] if inner else choice for choice in knob.choices)


class ProgramLikeness:
    """How alike the programs of two tasks are: the default, and what random choices lead to.

    Each task is summed up by the features of its default program (AutoTVM's itervar view: trip counts, bytes touched,
    strides, reuse, arithmetic) and the means of the features of ``count`` random ones; the similarity falls
    exponentially with the mean difference of the features. Needs no measurements. A space without a closed form is
    summed up by the values of its knobs.

    Args:
        count: random programs of each task.
        seed: of the random programs; the same for every task, so that the order of questions does not matter.
    """

    def __init__(self, count: int = 64, seed: int = 0) -> None:
        self._count, self._seed = count, seed
        # By key and template, and with the space, so that two spaces that share them are still told apart.
        self._known: dict[tuple[str, str], tuple[DesignSpace, NDArray[np.float64]]] = {}

    def __call__(self, a: DesignSpace, b: DesignSpace) -> float:
        """From 0 to 1; 0 for different templates or knobs."""
        if a.template != b.template or not comparable(a.knobs, b.knobs):
            return 0.0
        left, right = self._summary(a), self._summary(b)
        if left.shape != right.shape:
            return 0.0
        return math.exp(-float(np.abs(left - right).mean()) / _UNLIKE) if left.size else 1.0

    def _summary(self, space: DesignSpace) -> NDArray[np.float64]:
        """``(2 F,)``."""
        name = (space.task.key, space.template)
        known = self._known.get(name)
        if known is None or known[0] is not space:
            default = np.asarray(space.default(), dtype=np.int32)[None]
            drawn = sample(space, np.random.default_rng(self._seed), self._count)
            rows = np.concatenate([default, drawn])
            table = itervar_features(space.loop_nest(rows)) if space.has_loop_nest else knob_values(space, rows)
            values = table.astype(np.float64)
            known = (space, np.concatenate([values[0], values.mean(axis=0)]))
            self._known[name] = known
        return known[1]


@dataclass(frozen=True)
class Recorded:
    """What was measured of one task.

    Attributes:
        knobs: of its space.
        configs: ``(n, knobs)``.
        seconds: ``(n,)`` latencies; nan: failed.
    """

    knobs: tuple[Knob, ...]
    configs: Configs
    seconds: NDArray[np.float64]


def ranking_agreement(a: Recorded, b: Recorded) -> float:
    """How well the measurements of one task rank the configs of the other: from -1 to 1, as good as random at 0.

    Configs that worked for one task are translated to the other, their latencies there estimated from the nearest eight
    that were measured, and both latencies compared by Spearman's rank correlation; the mean of both directions. 0 where
    knobs differ or fewer than two configs worked.
    """
    if not comparable(a.knobs, b.knobs):
        return 0.0
    return 0.5 * (_predicts(a, b) + _predicts(b, a))


class RankingAgreement:
    """:func:`ranking_agreement` times the square root of another measure.

    ``python -m bench.similarity`` compares the measures by how well the best configs of one task carry over to another:
    this does best, then the likeness, then :func:`overlap` (docs/results/sharing.md). Without records of both tasks the
    agreement is taken to be what it usually is.

    Args:
        records: by ``Task.key``.
        measure: the other measure; by default a :class:`ProgramLikeness`.
        least: how many measurements a task needs to be judged by them.
    """

    def __init__(self, records: Mapping[str, Recorded], measure: Measure | None = None, least: int = 16) -> None:
        self._records, self._least = records, least
        self._measure: Measure = ProgramLikeness() if measure is None else measure

    def __call__(self, a: DesignSpace, b: DesignSpace) -> float:
        """From 0 to 1; 0 where the other measure says so."""
        one, other = self._records.get(a.task.key), self._records.get(b.task.key)
        known = one is not None and other is not None and min(len(one.seconds), len(other.seconds)) >= self._least
        agreement = ranking_agreement(one, other) if known and one is not None and other is not None else _USUAL
        return math.sqrt(self._measure(a, b)) * max(0.0, agreement)


def _predicts(source: Recorded, target: Recorded) -> float:
    """Spearman's correlation of the source's latencies with the target's around the same choices."""
    from_, to = np.isfinite(source.seconds), np.isfinite(target.seconds)
    if from_.sum() < 2 or to.sum() < 2:
        return 0.0
    rows = translate(source.knobs, source.configs[from_], target.knobs)
    apart = distance(target.knobs, rows, target.configs[to])
    near = np.argsort(apart, axis=1, kind="stable")[:, :_NEAREST]
    # The nearest counts most: measurements are a few doublings apart.
    weights = np.exp(-np.take_along_axis(apart, near, axis=1))
    weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    estimated = (weights * np.log(target.seconds[to])[near]).sum(axis=1)
    return _spearman(source.seconds[from_], estimated)


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The correlation of ranks; 0 where one of them is constant."""
    ranks = np.stack([_ranks(x), _ranks(y)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    scale = float(np.sqrt((ranks**2).sum(axis=1).prod()))
    return float((ranks[0] * ranks[1]).sum() / scale) if scale > 0 else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(n,)``: places in ascending order, equals sharing theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - 0.5 * (count - 1))[place.reshape(-1)])
