"""Dynamically quantised networks: bytes whose scale and zero point the network computes.

    DynamicQuantizeLinear(x)          -->  bytes, a scale, and a zero point
    MatMulInteger(bytes, zero point)  -->  sums of bytes - zero point * sums of the weights' columns
    Cast, Mul by scales               -->  one element-wise function, which is fused into the product

A sum of bytes minus zero points is an exact integer. It becomes a real number when the network casts it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from tilewright.graph.quantised.scaled import Computed, Doubles, Scaled, Term
from tilewright.graph.value import Value, shape_of
from tilewright.ops.rows.byte_range import row_ends

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["cast", "pad_bytes", "scale_by_computed", "serve_ends", "subtract_computed"]


def serve_ends(walk: Rewriter, x: Value) -> Value:
    """The smallest and the largest number of each row, by vectors."""
    rows, columns = x.shape
    result = walk.call(row_ends((rows, columns), walk.lanes), [walk.make_plain(x)], (rows, 2), "ends_of_rows")
    return Value.plain((rows, 2), result)


def subtract_computed(walk: Rewriter, x: Value, zero: Value, shape: tuple[int, ...]) -> Value | None:
    """``x - zero`` in int32, of unsigned bytes and a zero point that the network computes."""
    if x.dtype != "uint8" or zero.dtype != "uint8" or x.recipe is not None or math.prod(zero.shape) != 1:
        return None
    computed = Computed(walk.reshape(walk.make_plain(zero), ()), np.ones((), np.int32))
    return Value(shape, dtype="int32", scaled_form=Scaled((Term(x, np.ones(()), computed=computed),)))


def pad_bytes(walk: Rewriter, packed: relax.Expr, padding: tuple[int, int, int, int], zero: relax.Expr) -> relax.Expr:
    """A blocked image of bytes with a margin that holds a computed zero point.

    Args:
        walk: emits the new graph.
        packed: the image.
        padding: top, left, bottom, right.
        zero: of the shape ``()``.
    """
    from tilewright.ops.contraction.quantised import pad_with

    n, blocks, rows, cols, block = shape_of(packed)
    top, left, bottom, right = padding
    shape = (n, blocks, rows + top + bottom, cols + left + right, block)
    return walk.call(pad_with(shape_of(packed), padding), [packed, zero], shape, "pad_bytes", "uint8")


def cast(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The cast of exact integers to float32, which keeps them a sum."""
    value = args[0]
    form = value.scaled_form if isinstance(value, Value) else None
    if form is None or form.is_weight or value.dtype != "int32" or str(call.ty.dtype) != "float32":
        return None
    return Value(value.shape, scaled_form=form)


def scale_by_computed(
    walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr], shape: tuple[int, ...]
) -> Value | None:
    """The product of a term and a scale that the network computes, perhaps times known scales."""
    for place, other in ((0, 1), (1, 0)):
        value = args[place]
        form = value.scaled_form if isinstance(value, Value) else None
        if form is None or form.is_weight or value.shape != shape or form.limited or np.any(form.shift):
            continue
        (term, *more) = form.terms
        if more or term.computed is None or term.computed.step is not None:
            continue
        found = _find_factor(walk, call.args[other], len(shape))
        if found is None:
            return None
        step, scale = found
        computed = dataclasses.replace(term.computed, step=step)
        return Value(
            shape, scaled_form=Scaled((dataclasses.replace(term, scale=term.scale * scale, computed=computed),))
        )
    return None


def _find_factor(walk: Rewriter, operand: relax.Expr, rank: int) -> tuple[relax.Expr, Doubles] | None:
    """A computed number, and the known numbers that multiply it; None if the operand is nothing of this kind."""
    from tilewright.graph.quantised.operators import read_constant

    value = walk.values.get(operand)
    if not isinstance(value, Value) or value.dtype != "float32" or value.recipe is not None:
        return None
    scale = np.ones(())
    made = walk.bindings.get(operand)
    if made is not None and getattr(getattr(made, "op", None), "name", "") == "relax.multiply":
        for part, other in ((0, 1), (1, 0)):
            one = walk.values.get(made.args[part])
            known = walk.values.get(made.args[other], made.args[other])
            numbers = read_constant(walk, known, rank)
            if isinstance(one, Value) and math.prod(one.shape) == 1 and numbers is not None:
                value, scale = one, numbers
                break
    if math.prod(value.shape) != 1:
        return None
    return walk.reshape(walk.make_plain(value), ()), scale
