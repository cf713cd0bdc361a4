"""Converters of element-wise operators and reductions that other operators of ONNX cannot express."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.onnx.importer import Operands, converter
from tilewright.ops.extremes import extreme_along, place_along

if TYPE_CHECKING:
    from tvm import relax, te

__all__: list[str] = []


@converter("Max")
@converter("Min")
def _extreme(given: Operands) -> Sequence[relax.Expr]:
    """Max(a, b) and Min(a, b). TVM's converter stacks the operands in memory, and reduces them."""
    from tvm import relax

    choose = relax.op.maximum if given.node.op_type == "Max" else relax.op.minimum
    found = given.inputs[0]
    for other in given.inputs[1:]:
        found = given.emit(choose(found, other))
    return [found]


@converter("Expand")
def _expand(given: Operands) -> Sequence[relax.Expr]:
    """Expand(x, shape). TVM's converter fails if the shape is a weight."""
    from tvm import relax

    fixed = given.outputs[0]
    if fixed is None:
        raise NotImplementedError("the shape of its result is not known")
    return [relax.op.broadcast_to(given.inputs[0], fixed.shape)]


@converter("BitCast")
def _bit_cast(given: Operands) -> Sequence[relax.Expr]:
    from tvm import te, tirx

    fixed = given.outputs[0]
    if fixed is None:
        raise NotImplementedError("the shape of its result is not known")
    dtype, shape = fixed.dtype, fixed.shape

    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(shape, lambda *i: tirx.reinterpret(dtype, x(*i)), name="bit_cast")

    return [given.builder.emit_te(compute, given.inputs[0], primfunc_name_hint="bit_cast")]


@converter("ReduceMax")
@converter("ReduceMin")
def _reduce_to_extreme(given: Operands) -> Sequence[relax.Expr]:
    """ReduceMax(x) and ReduceMin(x). TVM's maximum of a row of minus infinity is the lowest finite number."""
    from tvm import relax

    fixed = given.outputs[0]
    if fixed is None:
        raise NotImplementedError("the shape of its result is not known")
    data = given.inputs[0]
    if data is None:
        raise ValueError("its data are absent")
    rank = len(data.ty.shape.values)
    axes = given.constants[1] if len(given.constants) > 1 else None
    if axes is None and len(given.inputs) > 1 and given.inputs[1] is not None:
        raise NotImplementedError("its axes are not constants")
    chosen = list(range(rank)) if axes is None or not axes.size else [int(axis) % rank for axis in axes]
    keepdims = bool(given.attributes.get("keepdims", 1))
    highest = given.node.op_type == "ReduceMax"
    if not fixed.dtype.startswith("float"):
        return [(relax.op.max if highest else relax.op.min)(given.inputs[0], chosen, keepdims)]
    return [given.builder.emit_te(extreme_along(chosen, keepdims, highest), data, primfunc_name_hint="extreme")]


@converter("ArgMax")
@converter("ArgMin")
def _place_of_extreme(given: Operands) -> Sequence[relax.Expr]:
    """ArgMax(x) and ArgMin(x). TVM's converter gives places outside of the axis, if all elements are the lowest."""
    data = given.inputs[0]
    if data is None:
        raise ValueError("its data are absent")
    rank = len(data.ty.shape.values)
    if not rank:
        raise NotImplementedError("its data are a single number")
    function = place_along(
        int(given.attributes.get("axis", 0)) % rank,
        bool(given.attributes.get("keepdims", 1)),
        given.node.op_type == "ArgMax",
        bool(given.attributes.get("select_last_index", 0)),
    )
    return [given.builder.emit_te(function, data, primfunc_name_hint="place")]


@converter("BitShift")
def _shift_bits(given: Operands) -> Sequence[relax.Expr]:
    """BitShift(a, b). If ``b`` is at least the width, ONNX shifts all bits out. A machine shifts by ``b`` modulo it."""
    from tvm import relax

    data, count = given.inputs
    if count is None:
        raise ValueError("its count is absent")
    dtype = str(count.ty.dtype)
    last = relax.const(np.iinfo(dtype).bits - 1, dtype)
    inside = relax.op.less_equal(count, last)
    if dtype.startswith("int"):
        inside = relax.op.logical_and(inside, relax.op.greater_equal(count, relax.const(0, dtype)))
    if given.attributes["direction"] == b"LEFT":
        shifted = relax.op.left_shift(data, relax.op.where(inside, count, relax.const(0, dtype)))
    else:
        shifted = relax.op.right_shift(data, relax.op.where(inside, count, last))
        if dtype.startswith("int"):
            return [shifted]  # the largest count leaves only copies of the sign
    return [relax.op.where(inside, shifted, relax.const(0, dtype))]


@converter("Mod")
def _modulo(given: Operands) -> Sequence[relax.Expr]:
    """Mod(a, b). With the sign of the divisor, TVM's converter gives NaN for an infinite divisor."""
    from tvm import relax

    data, divisor = given.inputs
    if data is None:
        raise ValueError("its data are absent")
    dtype = str(data.ty.dtype)
    if given.attributes.get("fmod", 0):
        return [relax.op.mod(data, divisor)]
    if not dtype.startswith("float"):
        return [relax.op.floor_mod(data, divisor)]
    rest, zero = given.emit(relax.op.mod(data, divisor)), relax.const(0, dtype)
    differs = relax.op.logical_xor(relax.op.less(rest, zero), relax.op.less(divisor, zero))
    moved = relax.op.logical_and(differs, relax.op.not_equal(rest, zero))
    return [relax.op.where(moved, relax.op.add(rest, divisor), rest)]


@converter("CumProd")
@converter("CumSum")
def _cumulate(given: Operands) -> Sequence[relax.Expr]:
    """CumSum(x). TVM's converter calls a library, which an executable does not have."""
    from tvm import relax, topi

    data, axis, fixed = given.inputs[0], given.constants[1], given.outputs[0]
    if axis is None or fixed is None:
        raise NotImplementedError("its axis is not a constant")
    place = int(axis.reshape(-1)[0]) % len(fixed.shape)
    backwards, exclusive = (bool(given.attributes.get(name, 0)) for name in ("reverse", "exclusive"))
    if backwards:
        data = given.emit(relax.op.flip(data, axis=place))
    operator = topi.cumsum if given.node.op_type == "CumSum" else topi.cumprod
    made = given.builder.emit_te(operator, data, place, fixed.dtype, exclusive)
    return [relax.op.flip(made, axis=place) if backwards else made]
