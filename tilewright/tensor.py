"""What a tensor is from outside, and random arrays for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Floats", "Numbers", "TensorSpec", "random_arrays"]

#: An array of any dtype.
Array: TypeAlias = NDArray[np.generic]
#: An array of floating-point numbers of any precision.
Floats: TypeAlias = NDArray[np.floating]
#: An array of numbers, with which one can calculate.
Numbers: TypeAlias = NDArray[np.number]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def random_arrays(specs: tuple[TensorSpec, ...], seed: int = 0) -> list[NDArray[Any]]:
    """One array per spec: floats standard normal, integers and booleans in [0, 2)."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal(spec.shape).astype(spec.dtype)
        if np.issubdtype(np.dtype(spec.dtype), np.floating)
        else rng.integers(0, 2, spec.shape).astype(spec.dtype)
        for spec in specs
    ]
