"""The rule of judgement: how far an output may be off, and where a mistake would show.

A floating-point element may differ from the expected one by ``RELATIVE * |expected| + FACTOR * noise``. The noise is
measured: evaluations that differ as correct programs may (:mod:`tilewright.verify.freedom`) are compared with the
reference. Each element has a noise of its own, since one output may hold coordinates of hundreds beside probabilities
of 1e-5. The noise is the root mean square of the differences over a slice through the element: the slice that differs
least. It is at least a third of the element's own difference (of any in the slice, if they jump). If there are many
evaluations, as of small outputs, the element's own differences bound the noise. If float32 decides nothing (it
overflows, or a choice between equals falls otherwise), the noise is infinite, and the element is exempt.

Inputs are conclusive for an output (:func:`telling`) if enough of its elements would be clearly off for other inputs.
Floating-point outputs are compared with those for inputs nearby (a tenth of the way to others): a softmax of large
numbers is 1 in one place and 0 elsewhere, and would be so after many a wrong computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FACTOR", "RELATIVE", "Difference", "clear", "clearness", "compare", "measure_noise", "telling", "tolerance"]

#: What an element may differ by, relative to itself, and in units of the noise. Right programs use at most a third of
#: that (102 programs of 30 networks, Winograd's algorithm among them; `python -m bench.verdict`, November 2026). With a
#: factor of 10, one of 785 mutants passed.
RELATIVE, FACTOR = 1e-4, 6.0
#: Noise that there always is, relative to the root mean square of a slice: the last digits of float32.
_LEAST = 2.0**-24
#: Smaller numbers are none in float32.
_TINY = float(np.finfo(np.float32).tiny)
#: A reference in float32 is ONNX Runtime, whose sigmoid has this error.
_OWN_ROUNDING = 2.0**-23
#: A slice of fewer elements says nothing about its noise.
_SLICE = 32
#: So many evaluations tell the noise of an element by itself, up to this factor.
_EVALUATIONS, _UNSURE = 6, 2.0
#: A difference is one that would show where it is so many tolerances; and an output shows differences where at least
#: this share of its elements does; of integers, which may be mostly 0 (masks, one-hot codes), fewer will do.
_CLEAR, _SHARE, _SHARE_OF_INTEGERS = 4.0, 0.05, 0.001

Array = NDArray[Any]


def measure_noise(
    expected: Array, roundings: Sequence[Array], amplitudes: Sequence[float], precision: str
) -> NDArray[np.float64]:
    """The noise of each element of ``expected``: the difference that rounding explains; infinite where it explains any.

    Args:
        expected: an output of the reference.
        roundings: the same output of evaluations that differ as correct programs may, of the same shape.
        amplitudes: how much they differ, in units of what correct programs may.
        precision: of the reference.
    """
    if expected.dtype.kind != "f":
        free = np.zeros(expected.shape, dtype=bool)
        for other in roundings:
            free |= other != expected
        return np.where(free, np.inf, 0.0)
    wide = expected.astype(np.float64)
    free = np.zeros(expected.shape, dtype=bool)
    errors = []
    with np.errstate(all="ignore"):
        for other in roundings:
            same = (other == wide) | (np.isnan(other) & np.isnan(wide))
            free |= ~same & ~(np.isfinite(other) & np.isfinite(wide))
            errors.append(np.where(same | free, 0.0, np.abs(other.astype(np.float64) - wide)))
    size = np.where(np.isfinite(wide) & ~free, wide, 0.0)
    noise = _LEAST * _least_slice(size)[0]
    for error, amplitude in zip(errors, amplitudes, strict=True):
        usual, most = _least_slice(error)
        noise = np.maximum(noise, usual / amplitude)
        # Rare jumps, as where a number is rounded to an integer, may come anywhere else.
        noise = np.maximum(noise, np.where(most > FACTOR * usual, most, error) / (FACTOR / 2))
    if len(errors) >= _EVALUATIONS:
        # An output may hold rates of 1e-10 beside rates of 1e9, in slices that are too short to tell them apart.
        scaled = [error / amplitude for error, amplitude in zip(errors, amplitudes, strict=True)]
        own = _UNSURE * np.sqrt(np.mean(np.square(scaled), axis=0))
        noise = np.where(own > 0, np.minimum(noise, np.maximum(own, _LEAST * np.abs(size))), noise)
    if precision == "float32":
        noise = np.maximum(noise, _OWN_ROUNDING)
    return np.where(free, np.inf, noise)


def _least_slice(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least root mean square, and the least maximum, of the slices through each element, across one axis each."""
    squares = values * values
    usual = np.full(values.shape, squares.mean() if squares.size else 0.0)
    most = np.full(values.shape, squares.max(initial=0.0))
    for axis, extent in enumerate(values.shape):
        if extent > 1 and values.size // extent >= _SLICE:
            others = tuple(other for other in range(values.ndim) if other != axis)
            usual = np.minimum(usual, squares.mean(axis=others, keepdims=True))
            most = np.minimum(most, squares.max(axis=others, keepdims=True))
    return np.sqrt(usual), np.sqrt(most)


def tolerance(expected: Array, noise: NDArray[np.float64], dtype: str = "float32") -> NDArray[np.float64]:
    """What each element of an output of type ``dtype`` may differ by from ``expected``."""
    if expected.dtype.kind != "f":
        return noise
    relative = max(RELATIVE, 2.0 * float(np.finfo(dtype).eps)) if np.dtype(dtype).kind == "f" else RELATIVE
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(expected), np.abs(expected), 0.0).astype(np.float64)
    return relative * size + FACTOR * noise + _TINY


def telling(expected: Array, other: Array, allowed: NDArray[np.float64]) -> bool:
    """Whether enough elements would show a wrong result, taking that for other inputs as an example of one."""
    if expected.shape != other.shape:
        return True
    if not expected.size:
        return True
    strays = _strays(np.isfinite(allowed)) if expected.dtype.kind != "f" else 0
    shows = np.count_nonzero(clear(expected, other, allowed)) - strays
    return bool(shows >= _least_share(expected) * expected.size)


def clearness(expected: Array, other: Array, allowed: NDArray[np.float64]) -> float:
    """How clearly a floating-point output differs from another; 1 is just enough to be conclusive."""
    with np.errstate(all="ignore"):
        apart = np.abs(expected.astype(np.float64) - other.astype(np.float64)) / (_CLEAR * allowed)
    apart = np.where(np.isfinite(apart), apart, 0.0)
    return float(np.quantile(apart, 1.0 - _least_share(expected))) if apart.size else 0.0


def _least_share(expected: Array) -> float:
    with np.errstate(all="ignore"):
        integers = expected.dtype.kind != "f" or bool(np.all(expected == np.round(expected)))
    share = _SHARE_OF_INTEGERS if integers else _SHARE
    return min(1.0, max(share, min(2, expected.size) / expected.size))


def _strays(judged: NDArray[np.bool_]) -> int:
    """How many integers may differ besides those that are exempt: some ties are broken alike in all evaluations."""
    exempt = int(np.count_nonzero(~judged))
    return exempt // 4 + 1 if exempt else 0


def clear(expected: Array, other: Array, allowed: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which elements would show a wrong result, taking ``other`` as an example of one."""
    if expected.dtype.kind != "f":
        return np.asarray((expected != other) & np.isfinite(allowed))
    with np.errstate(all="ignore"):
        apart = np.abs(expected.astype(np.float64) - other.astype(np.float64)) > _CLEAR * allowed
    return np.asarray(apart & np.isfinite(expected) & np.isfinite(other))


@dataclass(frozen=True)
class Difference:
    """How an output differs from the expected one.

    Attributes:
        count: the number of elements that differ by more than their tolerance.
        place: index of the element that is furthest off, relative to its tolerance; () if there is none.
        error: the largest difference, relative to the largest expected magnitude.
    """

    count: int
    place: tuple[int, ...]
    error: float


def compare(found: Array, expected: Array, allowed: NDArray[np.float64]) -> Difference:
    """Compare an output with the expected one of the same shape; ``allowed`` is the tolerance of each element."""
    judged = np.isfinite(allowed)
    if expected.dtype.kind != "f":
        bad = (found != expected) & judged
        count = int(np.count_nonzero(bad))
        if count <= _strays(judged):
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
