"""What a tensor is from outside, and random arrays for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Floats", "Numbers", "TensorSpec", "fill_uniform", "random_arrays"]

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


def random_arrays(specs: Sequence[TensorSpec], seed: int = 0) -> list[Array]:
    """One array per spec: floats standard normal; integers and booleans 0 or 1, since they may be indices."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal(spec.shape).astype(spec.dtype)
        if np.issubdtype(np.dtype(spec.dtype), np.floating)
        else rng.integers(0, 2, spec.shape).astype(spec.dtype)
        for spec in specs
    ]


def fill_uniform(array: Array, generator: np.random.Generator) -> None:
    """Fill ``array`` in place: floats uniform in [-1, 1); integers 0 to 3 and booleans, since they may be indices.

    Other numbers than :func:`random_arrays` draws, and without a second array: a weight may take half of the memory.
    """
    if array.dtype in (np.float32, np.float64):
        floats = cast("NDArray[np.float32]", array)
        generator.random(out=floats, dtype=floats.dtype)
        floats *= 2
        floats -= 1
    elif array.dtype.kind == "f":
        array[...] = generator.random(size=array.shape, dtype=np.float32) * 2 - 1
    else:
        array[...] = generator.integers(0, 2 if array.dtype.kind == "b" else 4, size=array.shape, dtype=np.int8)
