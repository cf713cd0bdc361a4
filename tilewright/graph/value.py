"""One tensor of the rewritten graph, in the layouts in which it exists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tilewright.graph.view import View
from tilewright.graph.weights import Recipe

if TYPE_CHECKING:
    from tvm import ir, relax

    from tilewright.graph.quantised.scaled import Scaled
    from tilewright.graph.quantised.tables import Tabulated

__all__ = ["Value", "shape_of"]


@dataclass
class Value:
    """A tensor of the rewritten graph, in every layout in which it exists so far.

    Attributes:
        shape: its shape in the network. That of a blocked tensor is batch, channels (one or more dimensions), rows,
            columns.
        base: an existing tensor that holds the elements; None if only ``packed`` or ``recipe`` does.
        view: how this tensor lies in ``base``.
        packed: the blocked tensor ``(n, places/block, h, w, block)``; None if there is none.
        block: the places in a block of ``packed``.
        order: the channel at each place of the blocked tensor; None if the channels lie in order, without gaps.
        copies: the blocked tensors, ``packed`` too, by block and order.
        fused: whether a convolution writes it, together with the element-wise operators after the convolution.
        scaled_form: the sum of scaled tensors that it is, as long as nothing needs its numbers. Bytes keep it then too.
            None for other tensors.
        table: the function of bytes that it is, as long as nothing needs the tensor. None for other tensors.
        recipe: how a weight is made; None for other tensors.
        pending: pairs of an operator and a scalar that have yet to be applied to ``base``.
        fresh: whether the function that computes ``base`` fuses element-wise operators that follow.
        dtype: of its elements.
    """

    shape: tuple[int, ...]
    base: relax.Expr = None
    view: View | None = None
    packed: relax.Expr = None
    block: int = 0
    recipe: Recipe | None = None
    pending: tuple[tuple[ir.Op, relax.Expr], ...] = ()
    fresh: bool = False
    dtype: str = "float32"
    order: tuple[int, ...] | None = None
    copies: dict[tuple[int, tuple[int, ...] | None], relax.Expr] = field(default_factory=dict)
    fused: bool = False
    scaled_form: Scaled | None = None
    table: Tabulated | None = None

    @property
    def channels(self) -> int:
        """The number of channels."""
        return int(np.prod(self.shape[1:-2]))

    @property
    def places(self) -> tuple[int, ...]:
        """The channel at each place; -1 is a gap."""
        return tuple(range(self.channels)) if self.order is None else self.order

    @property
    def channels_last(self) -> bool:
        """Whether one block holds all channels."""
        return self.packed is not None and self.block == len(self.places)

    @property
    def based_last(self) -> bool:
        """Whether it is an image that lies in ``base`` with its channels last."""
        view = self.view
        if view is None or self.pending or view.fixed or view.in_order or len(self.shape) != 4:
            return False
        batch, channels, rows, cols = ([a for a in dim if a.extent > 1] for dim in view.dims)
        return [a for a in view.atoms if a.extent > 1] == [*batch, *rows, *cols, *channels]

    @classmethod
    def plain(cls, shape: tuple[int, ...], tensor: relax.Expr, dtype: str = "float32") -> Value:
        """The value of a tensor that exists in its plain layout."""
        return cls(shape, base=tensor, view=View.of(shape), dtype=dtype)

    def seen(self, view: View) -> Value:
        """The value that has the same base and another view."""
        return Value(view.shape, base=self.base, view=view, pending=self.pending, fresh=self.fresh, dtype=self.dtype)

    def scaled(self, op: ir.Op, scalar: relax.Expr) -> Value:
        """The value of ``op(self, scalar)``, which is computed later."""
        return Value(
            self.shape, base=self.base, view=self.view, pending=(*self.pending, (op, scalar)), dtype=self.dtype
        )


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """The shape of an expression's result."""
    return tuple(int(d) for d in expr.ty.shape.values)
