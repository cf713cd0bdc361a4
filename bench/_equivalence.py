"""Decides whether a mutant computes something else, by its float64 outputs on inputs that no trial has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tilewright.frontend.network import Network
from tilewright.tensor import Array

__all__ = ["BEYOND_ROUNDING", "inputs_of_our_own", "times_rounding"]

#: A mutant's outputs must differ by more than so many times what right programs differ by; else it is equivalent.
BEYOND_ROUNDING = 10.0
#: Last digits of float32, relative to an element: right programs may always differ by these.
_LAST_DIGITS = 2.0**-22
#: Smaller numbers are none in float32.
_TINY = float(np.finfo(np.float32).tiny)
#: What normal inputs are multiplied with.
_SCALES = (1.0, 0.3, 3.0, 10.0)


def inputs_of_our_own(network: Network, known: Sequence[Array], count: int) -> Iterator[list[Array]]:
    """``count`` times inputs: normal floats of several sizes, and integers of ``known`` inputs, shuffled.

    Args:
        network: the network.
        known: inputs that it accepts, since not all integers are.
        count: how many times.
    """
    for number in range(count):
        rng = np.random.default_rng((1_000_003, number))
        made: list[Array] = []
        for spec, accepted in zip(network.inputs, known, strict=True):
            if np.issubdtype(np.dtype(spec.dtype), np.floating):
                values = _SCALES[number % len(_SCALES)] * rng.standard_normal(spec.shape)
                made.append(np.asarray(values).astype(spec.dtype))
            else:
                made.append(rng.permutation(accepted.reshape(-1)).reshape(accepted.shape))
        yield made


def times_rounding(
    exact: Sequence[Sequence[Array]], changed: Sequence[Sequence[Array]], right: Sequence[Sequence[Sequence[Array]]]
) -> float:
    """By how many times the error of right programs a mutant's outputs differ from the exact ones, at most.

    The error is told for each element: it is the largest that any right program makes of it, whatever the inputs.

    Args:
        exact: for each of several inputs the reference's outputs.
        changed: likewise the mutant's.
        right: for each right program likewise its outputs.

    Returns:
        The largest such number over all elements; infinite where shapes, kinds, integers or NaN differ.
    """
    found = 0.0
    for number in range(len(exact[0])):
        e, c = ([outputs[number] for outputs in run] for run in (exact, changed))
        if any(a.shape != b.shape or a.dtype.kind != b.dtype.kind for a, b in zip(e, c, strict=True)):
            return float("inf")
        wide, other = np.stack(e), np.stack(c)
        if wide.dtype.kind != "f":
            found = max(found, 0.0 if np.array_equal(wide, other) else float("inf"))
            continue
        if not np.array_equal(np.isfinite(wide), np.isfinite(other)):
            return float("inf")
        values = wide.astype(np.float64)
        with np.errstate(all="ignore"):
            errors = [
                np.abs(np.stack([outputs[number] for outputs in run]).astype(np.float64) - values) for run in right
            ]
            error = np.max([np.nan_to_num(e, posinf=0.0).max(axis=0) for e in errors], axis=0)
            allowed = error + _LAST_DIGITS * np.abs(wide) + _TINY
            apart = np.nan_to_num(np.abs(other.astype(np.float64) - values) / allowed, posinf=0.0)
        found = max(found, float(apart.max(initial=0.0)))
    return found
