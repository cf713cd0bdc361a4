"""The rule of judgement: how far an output may be off, and where a mistake would show.

A floating-point element may differ from the expected one by ``RELATIVE * |expected| + FACTOR * noise``. The noise is
measured. Evaluations that differ as correct programs do (:mod:`tilewright.verify.freedom`) are compared with the
reference. Each element has a noise of its own, since one output may hold coordinates of hundreds beside probabilities
of 1e-5.

- The noise of an element is the root mean square of the differences in a slice through it. Of the slices along all
  axes, the one with the smallest differences counts.
- The noise is at least a third of the element's own difference. If differences in the slice jump, it is at least a
  third of the largest one.
- If there are many evaluations, as there are for small outputs, the element's own differences bound its noise.
- If numbers are quantised on the way, a difference of a whole quantum comes in one evaluation and not in another, in
  one row of an output and not in another. So the largest difference of any slice, relative to the slice's size, counts
  for all slices across that axis, and an element's own differences tell nothing.
- If float32 decides nothing, the noise is infinite, and the element is not judged. Examples are overflow, and a choice
  between equal numbers.

- An output of float16 is rounded, so it may also be off by two of its last digits, and where it nears the largest
  float16, it is not judged.

Inputs are conclusive for an output (:func:`is_telling`) if enough of its elements would be clearly off for other
inputs. Floating-point outputs are compared with those for inputs nearby, a tenth of the way to other inputs. The reason
is softmax: of large numbers it is 1 in one place and 0 elsewhere, and after many a wrong computation, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilewright.difference import allowed_strays
from tilewright.tensor import Array

__all__ = [
    "FACTOR",
    "RELATIVE",
    "compute_tolerance",
    "find_clear",
    "is_telling",
    "measure_clearness",
    "measure_jumps",
    "measure_noise",
]

#: What an element may differ by: relative to itself, and in units of the noise. Right programs use at most a third of
#: both (102 programs of 30 networks, some with Winograd's algorithm; ``python -m bench.verdict``, November 2026). With
#: a factor of 10, one of 785 mutants was accepted.
RELATIVE, FACTOR = 1e-4, 6.0
#: The least noise, relative to the root mean square of a slice: the last digit of float32.
_LEAST = 2.0**-24
#: The least normal number of float32. A difference of less is always allowed.
_TINY = float(np.finfo(np.float32).tiny)
#: The least noise where the reference is in float32: the error of ONNX Runtime's sigmoid.
_OWN_ROUNDING = 2.0**-23
#: The least noise where the reference rounds to float16 again and again, relative to the root mean square of a slice.
_HALF_ROUNDING = 2.0**-9
#: The least number of elements in a slice by which its noise is measured.
_SLICE = 32
#: From this number of evaluations on, an element's own differences tell its noise, up to the factor ``_UNSURE``.
_EVALUATIONS, _UNSURE = 6, 2.0
#: An element is clearly off if its difference is this many times its tolerance.
_CLEAR = 4.0
#: The least share of an output's elements that must be clearly off for other inputs: of floating-point numbers, and of
#: integers, most of which may be 0 (masks, one-hot codes).
_SHARE, _SHARE_OF_INTEGERS = 0.05, 0.001


def measure_noise(
    expected: Array, roundings: Sequence[Array], amplitudes: Sequence[float], precision: str, quantised: bool = False
) -> NDArray[np.float64]:
    """The noise of each element of ``expected``: the size of difference that rounding explains.

    Args:
        expected: an output of the reference, of any shape and dtype.
        roundings: the same output of evaluations that differ as correct programs do, of the same shape.
        amplitudes: how much each evaluation differs, in units of what correct programs may differ by.
        precision: the reference's: ``float64`` or ``float32``; ``float16``: ONNX Runtime on a model of float16, where
            it rounds the results of all operators.
        quantised: whether numbers are rounded to bytes on the way.

    Returns:
        an array of the same shape; infinite where rounding explains any difference.
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
        # Where numbers are rounded to integers, rare jumps may come anywhere in the slice.
        noise = np.maximum(noise, np.where(most > FACTOR * usual, most, error) / (FACTOR / 2))
        if quantised:
            noise = np.maximum(noise, _spread_jumps(error, size) / (FACTOR / 2))
    if len(errors) >= _EVALUATIONS and not quantised:
        # A slice is too short to tell elements apart, if an output holds rates of 1e-10 beside rates of 1e9.
        scaled = [error / amplitude for error, amplitude in zip(errors, amplitudes, strict=True)]
        own = _UNSURE * np.sqrt(np.mean(np.square(scaled), axis=0))
        noise = np.where(own > 0, np.minimum(noise, np.maximum(own, _LEAST * np.abs(size))), noise)
    if precision == "float32":
        noise = np.maximum(noise, _OWN_ROUNDING)
    if precision == "float16":
        noise = np.maximum(noise, _HALF_ROUNDING * _least_slice(size)[0] + _OWN_ROUNDING)
    return np.where(free, np.inf, noise)


def _least_slice(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each element the least root mean square, and the least maximum, of the slices through it across one axis."""
    squares = values * values
    usual = np.full(values.shape, squares.mean() if squares.size else 0.0)
    most = np.full(values.shape, squares.max(initial=0.0))
    for axis, extent in enumerate(values.shape):
        if extent > 1 and values.size // extent >= _SLICE:
            others = tuple(other for other in range(values.ndim) if other != axis)
            usual = np.minimum(usual, squares.mean(axis=others, keepdims=True))
            most = np.minimum(most, squares.max(axis=others, keepdims=True))
    return np.sqrt(usual), np.sqrt(most)


def _spread_jumps(error: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each element the largest error that its slice would have, if all slices had the same relative to their size.

    Slices across different axes give different errors. The least one counts.
    """
    found = np.full(error.shape, error.max(initial=0.0))
    for axis, extent in enumerate(error.shape):
        if extent > 1 and error.size // extent >= _SLICE:
            others = tuple(other for other in range(error.ndim) if other != axis)
            usual = np.sqrt(np.square(size).mean(axis=others, keepdims=True))
            most = error.max(axis=others, keepdims=True)
            share = float(np.divide(most, usual, out=np.zeros_like(most), where=usual > 0).max())
            found = np.minimum(found, np.maximum(share * usual, most))
    return found


def measure_jumps(error: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each element the largest error of the slice through it in which the largest error is the least."""
    return _least_slice(error)[1]


def compute_tolerance(expected: Array, noise: NDArray[np.float64], dtype: str = "float32") -> NDArray[np.float64]:
    """How far each element of an output may differ from ``expected``.

    Args:
        expected: the output of the reference.
        noise: the result of :func:`measure_noise`, of the same shape.
        dtype: the output's own dtype, by which its rounding is known.

    Returns:
        an array of the same shape; infinite where an element is not judged.
    """
    if expected.dtype.kind != "f":
        return noise
    relative, absolute = RELATIVE, _TINY
    if dtype == "float16":
        relative, absolute = 2.0 * float(np.finfo(dtype).eps), float(np.finfo(dtype).smallest_subnormal)
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(expected), np.abs(expected), 0.0).astype(np.float64)
        allowed = relative * size + FACTOR * noise + absolute
        if dtype == "float16":
            allowed = np.where(size + allowed >= float(np.finfo(dtype).max), np.inf, allowed)
    return np.asarray(allowed)


def is_telling(expected: Array, other: Array, allowed: NDArray[np.float64]) -> bool:
    """Whether enough elements would show a wrong result. The output ``other`` stands for a wrong one.

    Args:
        expected: an output of the reference.
        other: the same output for other inputs.
        allowed: the tolerance of each element, of ``expected``'s shape.
    """
    if expected.shape != other.shape or not expected.size:
        return True
    strays = allowed_strays(np.isfinite(allowed)) if expected.dtype.kind != "f" else 0
    shows = np.count_nonzero(find_clear(expected, other, allowed)) - strays
    return bool(shows >= _least_share(expected) * expected.size)


def measure_clearness(expected: Array, other: Array, allowed: NDArray[np.float64]) -> float:
    """How clearly a floating-point output differs from ``other``: at 1 its inputs are just conclusive."""
    with np.errstate(all="ignore"):
        apart = np.abs(expected.astype(np.float64) - other.astype(np.float64)) / (_CLEAR * allowed)
    apart = np.where(np.isfinite(apart), apart, 0.0)
    return float(np.quantile(apart, 1.0 - _least_share(expected))) if apart.size else 0.0


def _least_share(expected: Array) -> float:
    """The least share of the elements of ``expected`` that must be clearly off."""
    with np.errstate(all="ignore"):
        integers = expected.dtype.kind != "f" or bool(np.all(expected == np.round(expected.astype(np.float64))))
    share = _SHARE_OF_INTEGERS if integers else _SHARE
    return min(1.0, max(share, min(2, expected.size) / expected.size))


def find_clear(expected: Array, other: Array, allowed: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which elements would show a wrong result. The output ``other`` of the same shape stands for it."""
    if expected.dtype.kind != "f":
        return np.asarray((expected != other) & np.isfinite(allowed))
    with np.errstate(all="ignore"):
        apart = np.abs(expected.astype(np.float64) - other.astype(np.float64)) > _CLEAR * allowed
    return np.asarray(apart & np.isfinite(expected) & np.isfinite(other))
