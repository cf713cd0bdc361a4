"""Measures of the similarity of two tasks: whether configs that are fast for one are fast for the other.

:func:`overlap` is the published measure (Yu, TVM conference 2019), which compares the choices of the knobs.
:class:`ProgramLikeness` is Tilewright's own, which compares the programs of the same choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.features import itervar_features
from tilewright.share.transfer import comparable
from tilewright.space.configs import knob_values, sample
from tilewright.space.knob import Knob, SplitKnob
from tilewright.space.space import DesignSpace

__all__ = [
    "Measure",
    "ProgramLikeness",
    "overlap",
    "similarity_matrix",
]

#: The mean difference of features, most of them in doublings, at which the likeness of programs has fallen to 1/e.
_UNLIKE = 0.5


class Measure(Protocol):
    """A measure of the similarity of tasks."""

    def __call__(self, a: DesignSpace, b: DesignSpace) -> float:
        """The similarity from 0 (nothing in common) to 1, which is the same for ``(b, a)``."""
        ...


def similarity_matrix(spaces: Sequence[DesignSpace], measure: Measure) -> NDArray[np.float64]:
    """The ``(n, n)`` similarities of all pairs: symmetric, with 1 on the diagonal."""
    matrix = np.eye(len(spaces))
    for i, a in enumerate(spaces):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = measure(a, spaces[j])
    return matrix


def overlap(a: DesignSpace, b: DesignSpace) -> float:
    """The published measure: the product over knobs of the Jaccard indices of their choices.

    Different templates or knobs give 0. Splits are compared without their outermost factor, so that tiles match across
    extents.
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
    """The likeness of the programs of two tasks: of their default programs, and of random programs.

    A summary of each task has the features of its default program, and the means of the features of ``count`` random
    programs. Features are AutoTVM's itervar view: trip counts, bytes touched, strides, reuse, arithmetic. The
    similarity falls exponentially with the mean difference of the summaries. It needs no measurements. The summary of a
    space without a closed form has the values of its knobs instead of features.

    Args:
        count: the number of random programs of each task.
        seed: of the random programs. All tasks have the same seed, so that the order of calls does not matter.
    """

    def __init__(self, count: int = 64, seed: int = 0) -> None:
        self._count, self._seed = count, seed
        # By key and template. An entry has its space, because two spaces may share key and template.
        self._known: dict[tuple[str, str], tuple[DesignSpace, NDArray[np.float64]]] = {}

    def __call__(self, a: DesignSpace, b: DesignSpace) -> float:
        """The similarity from 0 to 1; 0 for different templates or knobs."""
        if a.template != b.template or not comparable(a.knobs, b.knobs):
            return 0.0
        left, right = self._summary(a), self._summary(b)
        if left.shape != right.shape:
            return 0.0
        return math.exp(-float(np.abs(left - right).mean()) / _UNLIKE) if left.size else 1.0

    def _summary(self, space: DesignSpace) -> NDArray[np.float64]:
        """The ``(2 F,)`` summary of a task."""
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
