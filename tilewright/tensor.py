"""What a tensor is from outside, and random arrays for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "OPTIONAL",
    "SEQUENCE",
    "TEXTS",
    "Array",
    "Floats",
    "Numbers",
    "TensorSpec",
    "fill_uniform",
    "random_arrays",
    "random_texts",
]

#: An array of any dtype.
Array: TypeAlias = NDArray[np.generic]
#: An array of floating-point numbers of any precision.
Floats: TypeAlias = NDArray[np.floating]
#: An array of numbers, with which one can calculate.
Numbers: TypeAlias = NDArray[np.number]


#: What :class:`TensorSpec` calls the dtype of what is no tensor of numbers.
TEXTS, SEQUENCE, OPTIONAL = "texts", "sequence", "optional"
#: The letters of random texts.
_LETTERS = np.array(list("abc de,.1"), dtype=object)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output.

    Attributes:
        name: its name.
        shape: its shape. An extent that values decide is -1; a sequence or an optional value has no extents.
        dtype: NumPy's name of the dtype of numbers; or ``TEXTS``, ``SEQUENCE`` or ``OPTIONAL``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def is_fixed(self) -> bool:
        """Whether it is a tensor of numbers whose shape is known before the network runs."""
        return self.is_numeric and all(extent >= 0 for extent in self.shape)

    @property
    def is_numeric(self) -> bool:
        """Whether it is a tensor of numbers."""
        return self.dtype not in (TEXTS, SEQUENCE, OPTIONAL)

    @property
    def kind(self) -> str:
        """NumPy's kind of the dtype of numbers (``f``, ``i``, ``u``, ``b``); ``T``: texts; empty: no tensor."""
        if self.is_numeric:
            return np.dtype(self.dtype).kind
        return "T" if self.dtype == TEXTS else ""


def random_arrays(specs: Sequence[TensorSpec], seed: int = 0) -> list[Array]:
    """One array per spec: floats standard normal; integers and booleans 0 or 1, since they may be indices; texts."""
    rng = np.random.default_rng(seed)
    return [_random_array(spec, rng) for spec in specs]


def random_texts(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """An array of short texts."""
    count = int(np.prod(shape))
    made = np.empty(count, dtype=object)
    made[:] = ["".join(rng.choice(_LETTERS, rng.integers(1, 12))) for _ in range(count)]
    return made.reshape(shape)


def _random_array(spec: TensorSpec, rng: np.random.Generator) -> Array:
    if spec.dtype == TEXTS:
        return random_texts(spec.shape, rng)
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return np.asarray(rng.standard_normal(spec.shape).astype(spec.dtype))
    return np.asarray(rng.integers(0, 2, spec.shape).astype(spec.dtype))


def fill_uniform(array: Array, generator: np.random.Generator, largest: float = 1.0) -> None:
    """Fill ``array`` in place: floats uniform in [-largest, largest); integers 0 to 3, since they may be indices.

    uint16 gets the bits of bfloat16 numbers in the same range, since it may hold weights: small integers would be the
    bits of denormal numbers, with which processors are slow.

    Other numbers than :func:`random_arrays` draws, and without a second array: a weight may take half of the memory.
    """
    if array.dtype in (np.float32, np.float64):
        floats = cast("NDArray[np.float32]", array)
        generator.random(out=floats, dtype=floats.dtype)
        floats *= 2 * largest
        floats -= largest
    elif array.dtype.kind == "f":
        array[...] = (generator.random(size=array.shape, dtype=np.float32) * 2 - 1) * largest
    elif array.dtype == np.uint16:
        numbers = (generator.random(size=array.shape, dtype=np.float32) * 2 - 1) * np.float32(largest)
        array[...] = numbers.view(np.uint32) >> np.uint32(16)
    else:
        array[...] = generator.integers(0, 2 if array.dtype.kind == "b" else 4, size=array.shape, dtype=np.int8)
