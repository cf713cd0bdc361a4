"""Computes sums of scaled tensors: as float32 where an operator needs the numbers, or as integers of another scale."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from tilewright.graph.quantised.scaled import Scaled, find_bytes
from tilewright.graph.quantised.tables import realise
from tilewright.graph.value import Value
from tilewright.graph.view import View
from tilewright.ops.elementwise.affine import AffineForm, TermForm, affine
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["compute", "settle"]

#: Half of the size below which numbers are rounded by an addition (:mod:`tilewright.ops.elementwise.affine`).
_ROUNDED = float(1 << 21)


def settle(walk: Rewriter, value: Value) -> Value:
    """Compute a sum of scaled tensors, or a function of bytes, unless it is a tensor already. Returns ``value``.

    Bytes of one scale keep their form: contractions that follow read the bytes, and other operators the tensor.
    """
    realise(value)
    form = value.scaled_form
    if form is None or value.base is not None or value.packed is not None:
        return value
    if not form.is_bytes:
        value.scaled_form = None
    if form.is_weight:
        value.recipe = walk.make_weight(form.read(walk.arrays).astype(value.dtype))
        return value
    if value.dtype == "int8":
        form = form.limited_to(-128.0, 127.0)
    made = compute(walk, form, value.dtype, 0, None)
    for name in ("base", "view", "packed", "block", "order", "copies", "fused", "fresh"):
        setattr(value, name, getattr(made, name))
    return value


def compute(walk: Rewriter, form: Scaled, dtype: str, zero: int, divisor: float | None) -> Value:
    """Compute a sum, in the layout of a term that a contraction writes, or else of its first term.

    Args:
        walk: emits the new graph.
        form: the sum. Its numbers differ along one axis: the channels of blocked terms, or the last axis.
        dtype: of the result.
        zero: the zero point of integers.
        divisor: divides the only term; None: scales multiply the terms.
    """
    if dtype == "float32":
        form = _subtract_first(form)
    values = [term.value for term in form.terms]
    sums = [v for v in values if v.dtype == "int32" and (v.fused or v.fresh)]
    # Rows that a product has written take the sum into the product, unless a reshape stands between.
    rows = [v for v in values if v.fresh] if values[0].packed is None else []
    first = (sums or rows or values)[0]
    layout = _Blocked(walk, first) if first.packed is not None else _Rows(walk, first, form)
    tensors = [layout.lay(value) for value in values]
    numbers = _Numbers(walk, layout)
    kinds = []
    for term in form.terms:
        if divisor is not None:
            numbers.give(np.asarray(divisor))
            scale = "divisor"
        else:
            scale = numbers.give(term.scale) if np.any(term.scale != 1.0) else "none"
        if term.offset is not None:
            numbers.give(term.offset, "int32", spread=True)
        moved, own = "none", term.computed
        if own is not None and own.zero is not None:
            numbers.arguments.append(own.zero)
            moved = numbers.give(own.columns, "int32")
        stepped = own is not None and own.step is not None
        if own is not None and own.step is not None:
            numbers.arguments.append(own.step)
        kinds.append(TermForm(term.value.dtype, scale, term.offset is not None, moved, stepped))
    shift = numbers.give(form.shift, "int32" if dtype == "int32" else "float32") if np.any(form.shift) else "none"
    saturates = dtype == "uint8" and walk.pairs and _saturates(form, zero, divisor)
    if form.limited and not saturates:
        numbers.give(np.asarray(form.low))
        numbers.give(np.asarray(form.high))
    if zero:
        numbers.give(np.asarray(zero), "uint8" if saturates else "int32")
    limited = form.limited and not saturates
    made = AffineForm(layout.shape, layout.channels, tuple(kinds), shift, limited, dtype, zero != 0, saturates)
    name = {"float32": "dequantise", "int32": "widen"}.get(dtype, "requantise")
    result = walk.call(affine(made), [*tensors, *numbers.arguments], layout.shape, name, dtype)
    return layout.value(result, dtype)


def _saturates(form: Scaled, zero: int, divisor: float | None) -> bool:
    """Whether a sum's only limits are those of unsigned bytes, and its numbers are small enough to be rounded first."""
    if divisor is not None or (form.low, form.high) != (-zero, 255 - zero):
        return False
    largest = sum(term.largest for term in form.terms) + float(np.abs(form.shift).max(initial=0.0))
    return largest < _ROUNDED


def _subtract_first(form: Scaled) -> Scaled:
    """Bytes as numbers: (x - zero) * scale is exactly 0 where x is the zero point, and x * scale + shift is not."""
    found = find_bytes(form)
    if found is None or not found[2]:
        return form
    (term,) = form.terms
    zero = np.full(term.scale.shape, -found[2], np.int32)
    return dataclasses.replace(form, terms=(dataclasses.replace(term, offset=zero),), shift=np.zeros(()))


class _Blocked:
    """A layout in blocks of channels.

    Attributes:
        shape: of the tensors.
        channels: the axes of the channels.
    """

    channels = (1, 4)

    def __init__(self, walk: Rewriter, first: Value) -> None:
        self._walk, self._first = walk, first
        self.shape = tuple(int(extent) for extent in first.packed.ty.shape.values)

    def lay(self, value: Value) -> relax.Expr:
        """A tensor in this layout."""
        return self._walk.pack(value, self._first.block, self._first.order)

    def spread(self, numbers: Array) -> Array:
        """The numbers of all channels in the shape of ``AffineForm.channel_shape``; those of gaps are 0."""
        places = np.asarray(self._first.places)
        own = np.broadcast_to(numbers.reshape(-1), (self._first.channels,))
        placed: Array = np.where(places >= 0, own[np.maximum(places, 0)], 0)
        return placed.reshape(1, self.shape[1], 1, 1, self.shape[4])

    def value(self, result: relax.Expr, dtype: str) -> Value:
        """The value of a result in this layout."""
        first = self._first
        return Value(first.shape, packed=result, block=first.block, order=first.order, dtype=dtype, fused=first.fused)


class _Rows:
    """The plain layout, as rows whose columns are the channels.

    Attributes:
        shape: of the tensors; if all numbers are the same for all channels, that of the first term's base.
        channels: the axis of the channels, if numbers differ along it.
    """

    def __init__(self, walk: Rewriter, first: Value, form: Scaled) -> None:
        self._walk, self._first = walk, first
        if any(not walk.make_whole_view(term.value).in_order for term in form.terms):
            for term in form.terms:
                walk.materialise(term.value)
        columns = max((n.size for n in form.numbers), default=1)
        if columns > 1:
            self.shape: tuple[int, ...] = (math.prod(first.shape) // columns, columns)
        else:
            self.shape = walk.make_view(first).base_shape or (1,)
        self.channels: tuple[int, ...] = (1,) if columns > 1 else ()

    def lay(self, value: Value) -> relax.Expr:
        """A tensor in this layout."""
        return self._walk.reshape(value.base, self.shape)

    def spread(self, numbers: Array) -> Array:
        """The numbers of all channels in the shape of ``AffineForm.channel_shape``."""
        return np.broadcast_to(numbers.reshape(-1), self.shape[-1:]).reshape(1, -1)

    def value(self, result: relax.Expr, dtype: str) -> Value:
        """The value of a result in this layout."""
        view = View.of(self.shape).reshape(self._first.shape)
        assert view is not None
        return Value(self._first.shape, base=result, view=view, dtype=dtype, fresh=self._first.fresh)


class _Numbers:
    """The numbers that a function takes besides its terms.

    Attributes:
        arguments: the weights that hold them, in order.
    """

    def __init__(self, walk: Rewriter, layout: _Blocked | _Rows) -> None:
        self.arguments: list[relax.Expr] = []
        self._walk, self._layout = walk, layout

    def give(self, numbers: Array, dtype: str = "float32", spread: bool = False) -> str:
        """Add numbers. Returns whether there is ``one`` for all channels, or one for each (``channel``).

        Args:
            numbers: one, or one for each channel.
            dtype: in which the function takes them.
            spread: whether equal numbers are kept, too.
        """
        flat = numbers.reshape(-1)
        one = not spread and bool(np.all(flat == flat[:1]))
        made = flat[:1] if one or not self._layout.channels else self._layout.spread(numbers)
        self.arguments.append(self._walk.add_weight(self._walk.make_weight(made.astype(dtype))))
        return "one" if one else "channel"
