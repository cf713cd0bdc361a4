"""How a compiled network's weights are made from the model's own: reshaped, transposed, packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """An array made from one weight of the model by reshapes, transpositions and slices.

    Attributes:
        source: name of the model's weight.
        shape: the array's shape after ``steps``.
        dtype: its dtype.
        steps: ``("reshape", shape)``, ``("transpose", axes)`` or ``("slice", (axis, begin, end))``, in order.
    """

    source: str
    shape: tuple[int, ...]
    dtype: str
    steps: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def reshape(self, shape: tuple[int, ...]) -> Recipe:
        """The same elements in ``shape``."""
        return Recipe(self.source, shape, self.dtype, (*self.steps, ("reshape", shape)))

    def transpose(self, axes: tuple[int, ...]) -> Recipe:
        """Axes permuted."""
        return Recipe(self.source, tuple(self.shape[a] for a in axes), self.dtype, (*self.steps, ("transpose", axes)))

    def slice(self, axis: int, begin: int, end: int) -> Recipe:
        """A stretch along one axis."""
        shape = (*self.shape[:axis], end - begin, *self.shape[axis + 1 :])
        return Recipe(self.source, shape, self.dtype, (*self.steps, ("slice", (axis, begin, end))))

    def apply(self, weights: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The array, contiguous."""
        array = weights[self.source]
        for kind, argument in self.steps:
            if kind == "slice":
                axis, begin, end = argument
                array = array[(slice(None),) * axis + (slice(begin, end),)]
            else:
                array = array.reshape(argument) if kind == "reshape" else array.transpose(argument)
        return np.ascontiguousarray(array).reshape(self.shape)  # it turns a scalar into a vector of one
