"""Loads elements of an attention of bytes, and says what is done to its scores and probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tilewright.ops.attention.byte_form import ByteAttention
from tilewright.ops.attention.form import Dims, Place
from tilewright.ops.elementwise.float32 import bits, let, number
from tilewright.ops.statements import load, make_counter, make_index, make_loop, store
from tilewright.ops.written import declare
from tilewright.saturating import ROUNDING, ROUNDING_BITS

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["LOWEST", "SMALLEST", "ByteElements", "round_byte", "whole"]

#: What the search for the largest score begins with, and the smallest sum of exponentials.
LOWEST, SMALLEST = -3.4028234663852886e38, 1e-30
#: The most bytes that are looked up at once.
_LOOKED_UP = 64


class ByteElements:
    """The tensors of an attention of bytes.

    Attributes:
        params: the parameters by name.
        buffers: the buffers besides.

    Args:
        form: the operator.
        params: one buffer for each of ``form.kinds``.
    """

    def __init__(self, form: ByteAttention, params: Sequence[Var]) -> None:
        self.form = form
        self.params = dict(zip(form.kinds, params, strict=True))
        self.buffers: list[Var] = []

    def allocate(self, name: str, shape: tuple[int, ...], dtype: str = "float32", scope: str = "global") -> Var:
        """A new buffer; ``scope`` ``local``: registers."""
        buffer = declare(name, shape, dtype, scope)
        self.buffers.append(buffer)
        return buffer

    def indices(self, dims: Sequence[Place], item: Expr, **axes: Expr) -> list[Expr]:
        """The index of each dimension for a matrix of the batch."""
        batch = self.form.batch
        found = []
        for kind, place in dims:
            if kind == "batch":
                step = math.prod(batch[place + 1 :])
                index = item // make_index(step) if step > 1 else item
                found.append(index % make_index(batch[place]) if place else index)
            else:
                found.append(make_index(place) if kind == "fixed" else axes[kind])
        return found

    def load(self, name: str, item: Expr, **axes: Expr) -> Expr:
        """An element of an operand, as it lies in memory."""
        dims: Dims = self.form.masks[int(name[4:])] if name.startswith("mask") else getattr(self.form, name)
        return load(self.params[name], self.indices([place for _, place in dims], item, **axes))

    def look_up(self, name: str, copy: Var, place: list[Expr], item: Expr, **row: Expr) -> Stmt:
        """Store a row of ``q`` or ``k``, looked up in its table, at ``place`` of a copy."""
        from tvm import tirx

        length = math.gcd(self.form.depth, _LOOKED_UP)
        chunk, lane = make_counter("chunk"), make_counter("lane")
        column = chunk * length + lane
        byte = self.load(name, item, depth=column, **row)
        found = load(self.params[f"{name}_table"], [byte.astype("int64")])
        body = make_loop(lane, length, store(copy, found, [*place, column]), tirx.ForKind.VECTORIZED)
        return make_loop(chunk, self.form.depth // length, body)

    def scale(self, place: int) -> Expr:
        """One of the scales."""
        return load(self.params["scales"], [make_index(place)])

    def zero(self, name: str) -> Expr:
        """The zero point of ``q``, ``k``, ``v`` or ``out``."""
        return load(self.params["zeros"], [make_index(("q", "k", "v", "out").index(name))])

    def score(self, product: Expr, mask: Callable[[int], Expr]) -> Expr:
        """The operand of softmax for an int32 product of a query and a key. ``mask`` gives an element of a mask."""
        from tvm import tirx

        value = product.astype("float32")
        for step in self.form.steps:
            value = value * self.scale(step.factor)
            for i, own in enumerate(step.masks):
                value = value + mask(own) * self.scale(step.factor + 1 + i)
            if step.rounded:
                low, high = (self.scale(place) for place in step.limits)
                value = whole(tirx.max(tirx.min(value, high), low))
        return value

    def probability(self, exponential: Expr, factor: Expr) -> Expr:
        """The byte of a probability as int32, for the factor of its row."""
        from tvm import tirx

        value = tirx.min(exponential * factor, number(255.0))
        first = self.form.ends[0]
        for place in range(first + 1, first + self.form.roundings):
            value = tirx.min(whole(value) * self.scale(place), number(255.0))
        return round_byte(value)

    def result(self, total: Expr) -> Expr:
        """The byte of the result for an int32 sum of probabilities and values."""
        from tvm import tirx

        zero = self.zero("out")
        value = total.astype("float32") * self.scale(self.form.ends[1])
        low = number(0.0) - zero.astype("float32")
        value = tirx.max(tirx.min(value, low + number(255.0)), low)
        rounded = tirx.reinterpret("int32", value + number(ROUNDING)) - tirx.const(ROUNDING_BITS, "int32")
        return (rounded + zero).astype("uint8")


def whole(value: Expr) -> Expr:
    """A float32 number below 2^22 rounded to a whole one, halves to the even one."""
    return let(value + number(ROUNDING), lambda total: total - number(ROUNDING))


def round_byte(value: Expr) -> Expr:
    """A float32 number from 0 to 255, rounded to a byte, as int32."""
    from tvm import tirx

    return bits(value + number(ROUNDING)) & tirx.const(255, "int32")
