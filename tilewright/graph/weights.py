"""How a compiled network's weights are made from the model's own: reshaped, transposed, packed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.winograd import transform_weight

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """An array made from one weight of the model: by reshapes, transpositions, taking elements along an axis, slices,
    and Winograd's transform of kernels.

    Attributes:
        source: name of the model's weight.
        shape: the array's shape after ``steps``.
        dtype: its dtype.
        steps: ``("reshape", shape)``, ``("transpose", axes)``, ``("take", (axis, *indices))``,
            ``("slice", (axis, begin, end))`` or ``("winograd", (m,))``, in order.
    """

    source: str
    shape: tuple[int, ...]
    dtype: str
    steps: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    def reshape(self, shape: tuple[int, ...]) -> Recipe:
        """The same elements in ``shape``."""
        return Recipe(self.source, shape, self.dtype, (*self.steps, ("reshape", shape)))

    def transpose(self, axes: tuple[int, ...]) -> Recipe:
        """Axes permuted."""
        return Recipe(self.source, tuple(self.shape[a] for a in axes), self.dtype, (*self.steps, ("transpose", axes)))

    def winograd(self, m: int) -> Recipe:
        """3x3 kernels transformed for tiles of ``m x m`` outputs: ``(O, C, 3, 3)`` --> ``(O, C, m + 2, m + 2)``."""
        shape = (*self.shape[:-2], m + 2, m + 2)
        return Recipe(self.source, shape, self.dtype, (*self.steps, ("winograd", (m,))))

    def take(self, axis: int, indices: tuple[int, ...]) -> Recipe:
        """The elements ``indices`` along ``axis``; zeros where an index is -1."""
        shape = (*self.shape[:axis], len(indices), *self.shape[axis + 1 :])
        return Recipe(self.source, shape, self.dtype, (*self.steps, ("take", (axis, *indices))))

    def slice(self, axis: int, begin: int, end: int) -> Recipe:
        """A stretch along one axis."""
        shape = (*self.shape[:axis], end - begin, *self.shape[axis + 1 :])
        return Recipe(self.source, shape, self.dtype, (*self.steps, ("slice", (axis, begin, end))))

    def apply(self, weights: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The array, contiguous."""
        array = weights[self.source]
        for kind, argument in self.steps:
            if kind == "winograd":
                array = transform_weight(argument[0], array)
            elif kind == "take":
                axis, indices = argument[0], np.asarray(argument[1:])
                array = array.take(np.maximum(indices, 0), axis)
                array[(slice(None),) * axis + (indices < 0,)] = 0
            elif kind == "slice":
                axis, begin, end = argument
                array = array[(slice(None),) * axis + (slice(begin, end),)]
            else:
                array = array.reshape(argument) if kind == "reshape" else array.transpose(argument)
        return np.ascontiguousarray(array).reshape(self.shape)  # it turns a scalar into a vector of one
