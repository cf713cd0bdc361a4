"""One tensor of the graph that is rewritten, in the layouts that it exists in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilewright.graph.view import View
from tilewright.graph.weights import Recipe

__all__ = ["Value"]


@dataclass
class Value:
    """A tensor.

    Attributes:
        shape: its shape in the network; if blocked: batch, channels (in one or more dimensions), rows, columns.
        base, view: a tensor that exists, and how this one lies in it.
        packed, block: the tensor as ``(n, places/block, h, w, block)``.
        order: the channel at each place of the blocked tensor; None where they lie in order, without gaps.
        copies: blocked tensors by block and order, with ``packed`` itself.
        fused: whether it is written by a convolution, with what is element-wise after it.
        recipe: of a weight.
        pending: (operator, scalar) that ``base`` has still to go through.
        fresh: whether ``base`` was just computed by a function that element-wise operators are fused into.
        dtype: of its elements.
    """

    shape: tuple[int, ...]
    base: Any = None
    view: View | None = None
    packed: Any = None
    block: int = 0
    recipe: Recipe | None = None
    pending: tuple[tuple[Any, Any], ...] = ()
    fresh: bool = False
    dtype: str = "float32"
    order: tuple[int, ...] | None = None
    copies: dict[tuple[int, tuple[int, ...] | None], Any] = field(default_factory=dict)
    fused: bool = False

    @property
    def channels(self) -> int:
        """How many there are."""
        return int(np.prod(self.shape[1:-2]))

    @property
    def places(self) -> tuple[int, ...]:
        """The channel at each place, -1 for none."""
        return tuple(range(self.channels)) if self.order is None else self.order

    @property
    def channels_last(self) -> bool:
        """Whether all channels make one block."""
        return self.packed is not None and self.block == len(self.places)

    @classmethod
    def plain(cls, shape: tuple[int, ...], tensor: Any, dtype: str = "float32") -> Value:
        """A tensor that exists as it is."""
        return cls(shape, base=tensor, view=View.of(shape), dtype=dtype)

    def seen(self, view: View) -> Value:
        """The same base in another view."""
        return Value(view.shape, base=self.base, view=view, pending=self.pending, fresh=self.fresh, dtype=self.dtype)

    def scaled(self, op: Any, scalar: Any) -> Value:
        """``op`` with ``scalar`` to be done later."""
        return Value(
            self.shape, base=self.base, view=self.view, pending=(*self.pending, (op, scalar)), dtype=self.dtype
        )
