"""The comparison of arrays that every judgement of correctness uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.tensor import Array

__all__ = ["Difference", "OutputAccuracy", "allowed_strays", "compare_arrays", "scaled_tolerance"]


@dataclass(frozen=True)
class OutputAccuracy:
    """How an output of a quantised model differs from that of the model in floating point, over all samples.

    Attributes:
        name: of the output.
        cosine: of the angle between all numbers of both; NaN if one of them has none, or is not finite, or is 0.
        largest_relative_error: the largest difference, relative to the largest magnitude in floating point. Of
            integers: the share that differs.
    """

    name: str
    cosine: float
    largest_relative_error: float


@dataclass(frozen=True)
class Difference:
    """How an array differs from the expected one.

    Attributes:
        count: the number of elements that differ by more than their tolerance.
        place: the index of the element that is furthest off, in units of its tolerance; () if ``count`` is 0.
        error: the largest difference of an element that is judged, relative to the largest expected magnitude; of
            integers: 1 where ``count`` is not 0.
    """

    count: int
    place: tuple[int, ...]
    error: float


def compare_arrays(found: Array, expected: Array, allowed: NDArray[np.float64]) -> Difference:
    """Compare an array with the expected one.

    Floating-point elements agree if they differ by no more than their tolerance. NaN agrees with NaN only, and an
    infinity with the same infinity only. Integers agree if they are equal, but for :func:`allowed_strays`.

    Args:
        found: the array; any shape.
        expected: of the same shape.
        allowed: the tolerance of each element, of the same shape. An element whose tolerance is infinite is not judged.
    """
    judged = np.isfinite(allowed)
    if expected.dtype.kind != "f":
        bad = (found != expected) & judged
        count = int(np.count_nonzero(bad))
        if count <= allowed_strays(judged):
            return Difference(0, (), 0.0)
        place = np.unravel_index(int(bad.argmax()), bad.shape) if count else ()
        return Difference(count, tuple(map(int, place)), 0.0 if not count else 1.0)
    with np.errstate(all="ignore"):
        ours, theirs = found.astype(np.float64), expected.astype(np.float64)
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        finite = np.isfinite(ours) & np.isfinite(theirs)
        apart = np.where(same, 0.0, np.where(finite, np.abs(ours - theirs), np.inf))
        excess = np.where(judged & ~same, apart / allowed, 0.0)
        bad = excess > 1.0
        scale = float(np.abs(theirs[np.isfinite(theirs) & judged]).max(initial=0.0))
        largest = float(apart[judged].max(initial=0.0))
        error = largest / scale if scale else largest
    count = int(np.count_nonzero(bad))
    place = np.unravel_index(int(excess.argmax()), bad.shape) if count else ()
    return Difference(count, tuple(map(int, place)), error)


def allowed_strays(judged: NDArray[np.bool_]) -> int:
    """How many integers may differ, apart from those that are not ``judged``.

    Rounding decides those that are not judged. Some other integers may depend on rounding as well, although all
    evaluations agreed on them. So a quarter of the number of exempt integers may differ, and one more.
    """
    exempt = int(np.count_nonzero(~judged))
    return exempt // 4 + 1 if exempt else 0


def scaled_tolerance(expected: Array, relative: float, absolute: float) -> NDArray[np.float64]:
    """One tolerance for all elements: ``relative`` times the largest finite expected magnitude, plus ``absolute``."""
    wide = expected.astype(np.float64)
    largest = float(np.abs(wide[np.isfinite(wide)]).max(initial=0.0))
    return np.full(expected.shape, relative * largest + absolute)
