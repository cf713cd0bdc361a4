"""How the weights of a compiled network are made from those of the model: reshaped, transposed, packed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tilewright.ops.contraction.bf16 import round_to_bf16
from tilewright.ops.winograd import transform_weight
from tilewright.tensor import Array

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """The steps that make an array from one weight of the model.

    Attributes:
        source: the name of the model's weight.
        shape: the array's shape after all ``steps``.
        dtype: the array's dtype.
        steps: the steps in order, each ``("reshape", shape)``, ``("transpose", axes)``, ``("take", (axis, *indices))``,
            ``("slice", (axis, begin, end))`` with or without a step, ``("flip", axes)``, ``("winograd", (m,))``,
            ``("halves", ())``, ``("rounded", ())`` or ``("words", ())``.
    """

    source: str
    shape: tuple[int, ...]
    dtype: str
    steps: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def reshape(self, shape: tuple[int, ...]) -> Recipe:
        """The array in another ``shape``."""
        return Recipe(self.source, shape, self.dtype, (*self.steps, ("reshape", shape)))

    def transpose(self, axes: tuple[int, ...]) -> Recipe:
        """The array with its axes in the order ``axes``."""
        return Recipe(self.source, tuple(self.shape[a] for a in axes), self.dtype, (*self.steps, ("transpose", axes)))

    def winograd(self, m: int) -> Recipe:
        """The 3x3 kernels transformed for ``m x m`` outputs a tile: ``(O, C, 3, 3)`` --> ``(O, C, m + 2, m + 2)``."""
        shape = (*self.shape[:-2], m + 2, m + 2)
        return Recipe(self.source, shape, self.dtype, (*self.steps, ("winograd", (m,))))

    def take(self, axis: int, indices: tuple[int, ...]) -> Recipe:
        """The elements at ``indices`` along ``axis``; zeros at indices of -1."""
        shape = (*self.shape[:axis], len(indices), *self.shape[axis + 1 :])
        return Recipe(self.source, shape, self.dtype, (*self.steps, ("take", (axis, *indices))))

    def slice(self, axis: int, begin: int, end: int, step: int = 1) -> Recipe:
        """Every ``step``-th element from ``begin`` up to ``end`` along ``axis``."""
        shape = (*self.shape[:axis], -(-(end - begin) // step), *self.shape[axis + 1 :])
        argument = (axis, begin, end) if step == 1 else (axis, begin, end, step)
        return Recipe(self.source, shape, self.dtype, (*self.steps, ("slice", argument)))

    def flip(self, axes: tuple[int, ...]) -> Recipe:
        """The array with the elements along ``axes`` in reverse."""
        return Recipe(self.source, self.shape, self.dtype, (*self.steps, ("flip", axes)))

    def halves(self) -> Recipe:
        """The upper halves of float32 numbers, which are the bits of bfloat16 numbers, in uint16."""
        return Recipe(self.source, self.shape, "uint16", (*self.steps, ("halves", ())))

    def rounded(self) -> Recipe:
        """The bits of the nearest bfloat16 numbers, in uint16."""
        return Recipe(self.source, self.shape, "uint16", (*self.steps, ("rounded", ())))

    def words(self) -> Recipe:
        """Bytes as words of 32 bits, each of four bytes along the last axis, of which the first is the lowest."""
        shape = (*self.shape[:-1], self.shape[-1] // 4)
        return Recipe(self.source, shape, "uint32", (*self.steps, ("words", ())))

    def apply(self, weights: Mapping[str, Array]) -> Array:
        """Make the array, contiguous, from the model's ``weights`` by name."""
        array = weights[self.source]
        for kind, argument in self.steps:
            if kind == "winograd":
                array = transform_weight(argument[0], array)
            elif kind == "take":
                axis, indices = argument[0], np.asarray(argument[1:])
                array = array.take(np.maximum(indices, 0), axis)
                array[(slice(None),) * axis + (indices < 0,)] = 0
            elif kind == "slice":
                axis, *bounds = argument
                array = array[(slice(None),) * axis + (slice(*bounds),)]
            elif kind == "flip":
                array = np.flip(array, argument)
            elif kind == "words":
                array = np.ascontiguousarray(array).view("<u4").astype(np.uint32)
            elif kind == "rounded":
                array = round_to_bf16(array)
            elif kind == "halves":
                array = (np.ascontiguousarray(array).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
            else:
                array = array.reshape(argument) if kind == "reshape" else array.transpose(argument)
        # ascontiguousarray turns a scalar into a vector of one element, so the shape is set after it.
        return np.ascontiguousarray(array).reshape(self.shape)
