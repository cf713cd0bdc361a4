"""What a tensor is from outside, and random arrays for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "TensorSpec", "random_arrays"]

#: An array of any dtype.
Array: TypeAlias = NDArray[np.generic]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def random_arrays(specs: tuple[TensorSpec, ...], seed: int = 0) -> list[Array]:
    """One array per spec: floats standard normal, integers and booleans in [0, 2)."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal(spec.shape).astype(spec.dtype)
        if np.issubdtype(np.dtype(spec.dtype), np.floating)
        else rng.integers(0, 2, spec.shape).astype(spec.dtype)
        for spec in specs
    ]
