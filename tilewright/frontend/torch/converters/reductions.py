"""Converters of reductions, sums along a dimension, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tilewright.frontend.torch.converters.operands import Operands, Results, converter
from tilewright.ops.extremes import extreme_along, place_along

if TYPE_CHECKING:
    from tvm import relax

__all__: list[str] = []


def _axes(o: Operands, name: str = "dim") -> list[int]:
    """The dimensions of a reduction, sorted, from 0 up; all of them if none is given."""
    names = [argument.name for argument in o.node.target._schema.arguments]
    rank = len(o.shape(0))
    given = o.given(name) if name in names else None
    if given is None or (isinstance(given, Sequence) and not given):
        return list(range(rank))
    return sorted({axis % max(1, rank) for axis in o.integers(name)})


def _reduce(o: Operands, function: Callable[..., relax.Expr], x: relax.Expr) -> relax.Expr:
    """A reduction that keeps its dimensions, in the shape of the result. So a blocked layout can be kept."""
    axes = _axes(o)
    if not axes:
        return x
    return o.reshape(o.emit(function(x, axes, keepdims=True)), o.out_shape)


@converter("mean.dim", "mean.default")
def _mean(o: Operands) -> relax.Expr:
    from tvm import relax

    return _reduce(o, relax.op.mean, o.operand(0, o.out_dtype))


@converter("sum.dim_IntList", "sum.default")
def _sum(o: Operands) -> relax.Expr:
    from tvm import relax

    return _reduce(o, relax.op.sum, o.operand(0, o.out_dtype))


@converter("prod.default", "prod.dim_int")
def _product(o: Operands) -> relax.Expr:
    from tvm import relax

    return _reduce(o, relax.op.prod, o.operand(0, o.out_dtype))


@converter("amax.default", "max.default")
def _largest(o: Operands) -> relax.Expr:
    return _extreme(o, True)


@converter("amin.default", "min.default")
def _smallest(o: Operands) -> relax.Expr:
    return _extreme(o, False)


def _extreme(o: Operands, highest: bool) -> relax.Expr:
    from tvm import relax

    function = relax.op.max if highest else relax.op.min
    if o.out_dtype == "bool":
        return o.cast(_reduce(o, function, o.operand(0, "int8")), "bool")
    if "float" not in o.out_dtype:
        return _reduce(o, function, o.expr(0))
    return _reduce(o, lambda x, axes, keepdims: _emit_extreme(o, x, axes, highest), o.expr(0))


def _emit_extreme(o: Operands, x: relax.Expr, axes: Sequence[int], highest: bool) -> relax.Expr:
    """The largest or smallest elements along dimensions, which stay. NaN if an element is, as in PyTorch."""
    if not str(x.ty.dtype).startswith("float"):
        from tvm import relax

        return (relax.op.max if highest else relax.op.min)(x, axes, keepdims=True)
    return o.builder.emit_te(extreme_along(axes, True, highest, nan=True), x, primfunc_name_hint="extreme")


def _emit_place(o: Operands, x: relax.Expr, axis: int, highest: bool) -> relax.Expr:
    """The places of the largest or smallest elements along a dimension, which stays."""
    return o.builder.emit_te(place_along(axis, True, highest, nan=True), x, primfunc_name_hint="place")


@converter("any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims")
def _any(o: Operands) -> relax.Expr:
    """Whether any, or each, of some truth values holds."""
    from tvm import relax

    function = relax.op.max if o.node.target.__name__.startswith("any") else relax.op.min
    return o.emit(relax.op.astype(_reduce(o, function, _as_int8(o)), o.out_dtype))


def _as_int8(o: Operands) -> relax.Expr:
    from tvm import relax

    return o.emit(relax.op.astype(o.operand(0, "bool"), "int8"))


@converter("_safe_softmax.default")
def _safe_softmax(o: Operands) -> relax.Expr:
    """softmax(x), and zeros where a whole row is minus infinity. Graph rewriting makes one operator of all this."""
    from tvm import relax

    x, dtype = o.operand(0, o.out_dtype), o.out_dtype
    axis = o.axis("dim", len(o.out_shape))
    result = o.emit(relax.op.nn.softmax(x, axis))
    finite = o.emit(relax.op.logical_not(o.emit(relax.op.equal(x, relax.const(-math.inf, dtype)))))
    largest = o.emit(relax.op.max(o.emit(relax.op.astype(finite, "int8")), [axis], keepdims=True))
    masked = o.emit(relax.op.logical_not(o.emit(relax.op.astype(largest, "bool"))))
    zeros = o.emit(relax.op.full_like(result, relax.const(0.0, dtype)))
    return o.emit(relax.op.where(masked, zeros, result))


@converter("_softmax.default", "softmax.int")
def _softmax(o: Operands) -> relax.Expr:
    from tvm import relax

    return o.emit(relax.op.nn.softmax(o.operand(0, o.out_dtype), o.axis("dim", len(o.out_shape))))


@converter("_log_softmax.default", "log_softmax.int")
def _log_softmax(o: Operands) -> relax.Expr:
    """TVM's operator takes the last dimension only."""
    from tvm import relax

    rank = len(o.out_shape)
    x, axis = o.operand(0, o.out_dtype), o.axis("dim", rank)
    if axis == rank - 1:
        return o.emit(relax.op.nn.log_softmax(x, axis))
    order = [*(a for a in range(rank) if a != axis), axis]
    last = o.emit(relax.op.nn.log_softmax(o.emit(relax.op.permute_dims(x, order)), rank - 1))
    return o.emit(relax.op.permute_dims(last, [order.index(a) for a in range(rank)]))


@converter("max.dim", "min.dim")
def _extreme_and_place(o: Operands) -> Results:
    """The largest or smallest element along a dimension, and its place. What nobody reads is not computed."""
    values, _ = o.node.meta["val"]
    shape = tuple(int(d) for d in values.shape)
    largest = o.node.target.__name__.startswith("max")
    axis = o.axis("dim", len(o.shape(0)))
    found: list[relax.Expr | None] = [None, None]
    if o.reads(0):
        found[0] = o.reshape(o.emit(_emit_extreme(o, o.expr(0), [axis], largest)), shape)
    if o.reads(1):
        found[1] = o.reshape(_emit_place(o, o.expr(0), axis, largest), shape)
    return found


@converter("argmax.default", "argmin.default")
def _place_of_extreme(o: Operands) -> relax.Expr:
    x, rank = o.expr(0), len(o.shape(0))
    if o.given("dim") is None:
        count = math.prod(o.shape(0))
        x, axis = o.reshape(x, [count]), 0
    else:
        axis = o.axis("dim", rank)
    return o.reshape(_emit_place(o, x, axis, o.node.target.__name__.startswith("argmax")), o.out_shape)


@converter("var.correction", "std.correction", "var_mean.correction", "std_mean.correction")
def _variance(o: Operands) -> Results:
    """The mean of squared differences, with its correction; its root; and the mean, if it is asked for."""
    from tvm import relax

    name = o.node.target.__name__
    pair = "_mean" in name
    first = o.node.meta["val"][0] if pair else o.node.meta["val"]
    shape, dtype = tuple(int(d) for d in first.shape), str(first.dtype).removeprefix("torch.")
    axes, x = _axes(o), o.expr(0)
    count = math.prod(o.shape(0)[axis] for axis in axes)
    given = o.given("correction")
    correction = 1.0 if given is None else float(o.number("correction"))
    mean = o.emit(relax.op.mean(x, axes, keepdims=True))
    centred = o.emit(relax.op.subtract(x, mean))
    total = o.emit(relax.op.sum(o.emit(relax.op.multiply(centred, centred)), axes, keepdims=True))
    divisor = max(0.0, count - correction)
    result = o.emit(relax.op.divide(total, relax.const(divisor, dtype)))
    if name.startswith("std"):
        result = o.emit(relax.op.sqrt(result))
    result = o.reshape(result, shape)
    return [result, o.reshape(mean, shape)] if pair else result


@converter("linalg_vector_norm.default")
def _vector_norm(o: Operands) -> relax.Expr:
    from tvm import relax

    dtype, order = o.out_dtype, float(o.number("ord"))
    x = o.operand(0, dtype)
    if order == 2.0:
        return o.emit(relax.op.sqrt(_reduce(o, relax.op.sum, o.emit(relax.op.multiply(x, x)))))
    size = o.emit(relax.op.abs(x))
    if order == 1.0:
        return _reduce(o, relax.op.sum, size)
    if math.isinf(order):
        return _reduce(o, relax.op.max if order > 0 else relax.op.min, size)
    if order == 0.0:
        there = o.emit(relax.op.not_equal(size, relax.const(0.0, dtype)))
        return _reduce(o, relax.op.sum, o.emit(relax.op.astype(there, dtype)))
    total = _reduce(o, relax.op.sum, o.emit(relax.op.power(size, relax.const(order, dtype))))
    return o.emit(relax.op.power(total, relax.const(1.0 / order, dtype)))


@converter("cumsum.default", "cumprod.default")
def _running(o: Operands) -> relax.Expr:
    from tvm import relax

    function = relax.op.cumsum if "sum" in o.node.target.__name__ else relax.op.cumprod
    if not o.out_shape:
        return o.operand(0, o.out_dtype)
    return o.emit(function(o.operand(0, o.out_dtype), o.axis("dim", len(o.out_shape)), o.out_dtype))
