"""Converters of element-wise operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tilewright.frontend.torch.converters.operands import Operands, converter, dtype_of

if TYPE_CHECKING:
    from tvm import relax

__all__: list[str] = []

_Function: TypeAlias = "Callable[[relax.Expr, relax.Expr], relax.Expr]"

#: Arithmetic: Relax's operators by ATen's. Operands are in the dtype of the result.
_ARITHMETIC = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "maximum": "maximum",
    "minimum": "minimum",
    "atan2": "atan2",
    "bitwise_and": "bitwise_and",
    "bitwise_or": "bitwise_or",
    "bitwise_xor": "bitwise_xor",
    "bitwise_left_shift": "left_shift",
    "bitwise_right_shift": "right_shift",
}
#: The same on truth values.
_LOGIC = {
    "add": "logical_or",
    "mul": "logical_and",
    "maximum": "logical_or",
    "minimum": "logical_and",
    "bitwise_and": "logical_and",
    "bitwise_or": "logical_or",
    "bitwise_xor": "logical_xor",
}
#: Comparisons. Operands are in their common dtype.
_COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


def _register_arithmetic(name: str) -> None:
    @converter(
        *(f"{name}.{overload}" for overload in ("Tensor", "Scalar", "default", "Scalar_Tensor", "Tensor_Scalar"))
    )
    def convert(o: Operands) -> relax.Expr:
        from tvm import relax

        dtype = o.out_dtype
        left, right = o.operand(0, dtype), o.operand(1, dtype)
        if dtype == "bool":
            return o.emit(getattr(relax.op, _LOGIC[name])(left, right))
        alpha = o.number("alpha") if name in ("add", "sub") else 1
        if alpha != 1:
            right = o.emit(relax.op.multiply(right, relax.const(alpha, dtype)))
        return o.emit(getattr(relax.op, _ARITHMETIC[name])(left, right))


def _register_comparison(name: str) -> None:
    @converter(f"{name}.Tensor", f"{name}.Scalar")
    def convert(o: Operands) -> relax.Expr:
        from tvm import relax

        dtype = _common_dtype(o)
        left, right = o.operand(0, dtype), o.operand(1, dtype)
        if dtype == "bool":  # TVM compares numbers only
            left, right = o.cast(left, "int8"), o.cast(right, "int8")
        return o.emit(getattr(relax.op, _COMPARISONS[name])(left, right))


for _name in _ARITHMETIC:
    _register_arithmetic(_name)
for _name in _COMPARISONS:
    _register_comparison(_name)


def _common_dtype(o: Operands) -> str:
    """The dtype in which PyTorch computes with the first two arguments."""
    import torch

    given = [o.given(place) for place in (0, 1)]
    values = [g.meta["val"].to("meta") if hasattr(g, "meta") else g for g in given]
    return dtype_of(torch.result_type(*values))


@converter("rsub.Tensor", "rsub.Scalar")
def _reversed_difference(o: Operands) -> relax.Expr:
    from tvm import relax

    dtype, alpha = o.out_dtype, o.number("alpha")
    left = o.operand(0, dtype)
    if alpha != 1:
        left = o.emit(relax.op.multiply(left, relax.const(alpha, dtype)))
    return o.emit(relax.op.subtract(o.operand(1, dtype), left))


@converter("div.Tensor", "div.Scalar")
def _quotient(o: Operands) -> relax.Expr:
    from tvm import relax

    return o.emit(relax.op.divide(o.operand(0, o.out_dtype), o.operand(1, o.out_dtype)))


@converter("div.Tensor_mode", "div.Scalar_mode")
def _rounded_quotient(o: Operands) -> relax.Expr:
    from tvm import relax

    dtype, mode = o.out_dtype, o.given("rounding_mode")
    left, right = o.operand(0, dtype), o.operand(1, dtype)
    if mode is None:
        return o.emit(relax.op.divide(left, right))
    if "float" in dtype:
        return o.emit((relax.op.floor if mode == "floor" else relax.op.trunc)(o.emit(relax.op.divide(left, right))))
    # A quotient of integers is cut.
    return o.emit((relax.op.floor_divide if mode == "floor" else relax.op.divide)(left, right))


@converter("remainder.Tensor", "remainder.Scalar", "remainder.Scalar_Tensor")
def _remainder(o: Operands) -> relax.Expr:
    """The remainder that has the sign of the divisor."""
    from tvm import relax

    dtype = o.out_dtype
    left, right = o.operand(0, dtype), o.operand(1, dtype)
    if "float" not in dtype:
        return o.emit(relax.op.floor_mod(left, right))
    whole = o.emit(relax.op.floor(o.emit(relax.op.divide(left, right))))
    return o.emit(relax.op.subtract(left, o.emit(relax.op.multiply(whole, right))))


@converter("fmod.Tensor", "fmod.Scalar")
def _cut_remainder(o: Operands) -> relax.Expr:
    """The remainder that has the sign of the dividend."""
    from tvm import relax

    dtype = o.out_dtype
    return o.emit(relax.op.mod(o.operand(0, dtype), o.operand(1, dtype)))


@converter("logical_and.default", "logical_or.default", "logical_xor.default")
def _logic(o: Operands) -> relax.Expr:
    from tvm import relax

    name = o.node.target.__name__.partition(".")[0]
    return o.emit(getattr(relax.op, name)(o.operand(0, "bool"), o.operand(1, "bool")))


@converter("logical_not.default", "bitwise_not.default")
def _complement(o: Operands) -> relax.Expr:
    from tvm import relax

    if o.out_dtype == "bool":
        return o.emit(relax.op.logical_not(o.operand(0, "bool")))
    return o.emit(relax.op.bitwise_not(o.expr(0)))


@converter("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def _power(o: Operands) -> relax.Expr:
    from tvm import relax

    dtype, exponent = o.out_dtype, o.given("exponent")
    base = o.operand(0, dtype)
    if exponent in (1, 2, 3):
        result = base
        for _ in range(int(exponent) - 1):
            result = o.emit(relax.op.multiply(result, base))
        return result
    if exponent == 0.5:
        return o.emit(relax.op.sqrt(base))
    if exponent == -0.5:
        return o.emit(relax.op.rsqrt(base))
    if exponent == -1 and "float" in dtype:
        return o.emit(relax.op.divide(relax.const(1.0, dtype), base))
    if "float" in dtype:
        return o.emit(relax.op.power(base, o.operand("exponent", dtype)))
    if not isinstance(exponent, int) or exponent < 0:
        raise ValueError("a power of integers has an exponent that is a number")
    result = relax.op.ones_like(base)
    for _ in range(exponent):
        result = o.emit(relax.op.multiply(result, base))
    return result


@converter("clamp.default", "clamp.Tensor", "clamp_min.default", "clamp_max.default", "hardtanh.default")
def _clamp(o: Operands) -> relax.Expr:
    from tvm import relax

    dtype = o.out_dtype
    x = o.operand(0, dtype)
    names = [a.name for a in o.node.target._schema.arguments]
    low, high = (next((n for n in (word, f"{word}_val") if n in names), None) for word in ("min", "max"))
    bounds = [None if name is None else o.given(name) for name in (low, high)]
    if "float" in dtype and all(b is None or isinstance(b, int | float) for b in bounds):
        least, most = (
            float(b) if isinstance(b, int | float) else limit for b, limit in zip(bounds, _ENDS, strict=True)
        )
        return x if (least, most) == _ENDS else o.emit(relax.op.clip(x, least, most))
    for name, bound, limit in ((low, bounds[0], relax.op.maximum), (high, bounds[1], relax.op.minimum)):
        if name is not None and bound is not None:
            x = o.emit(limit(x, o.operand(name, dtype)))
    return x


_ENDS = (-math.inf, math.inf)


@converter("where.self")
def _choice(o: Operands) -> relax.Expr:
    from tvm import relax

    condition = o.operand("condition", "bool")
    return o.emit(relax.op.where(condition, o.operand("self", o.out_dtype), o.operand("other", o.out_dtype)))


@converter("_to_copy.default", "to.dtype", "clone.default", "alias.default", "detach.default", "contiguous.default")
@converter("lift_fresh_copy.default")
def _copy(o: Operands) -> relax.Expr:
    return o.cast(o.expr(0), o.out_dtype)


@converter("copy.default")
def _overwrite(o: Operands) -> relax.Expr:
    """The elements of ``src``, in the shape and dtype of the tensor that they are written to."""
    from tvm import relax

    source = o.operand("src", o.out_dtype)
    return source if o.shape("src") == o.out_shape else o.emit(relax.op.broadcast_to(source, o.out_shape))


@converter("hardsigmoid.default")
def _hard_sigmoid(o: Operands) -> relax.Expr:
    """clip(x / 6 + 1/2, 0, 1), as TVM's importer writes ONNX's HardSigmoid."""
    from tvm import relax

    x, dtype = o.expr(0), o.out_dtype
    line = relax.op.add(relax.op.multiply(relax.const(np.float32(1 / 6), dtype), x), relax.const(0.5, dtype))
    return o.emit(relax.op.clip(line, 0, 1))


@converter("hardswish.default")
def _hard_swish(o: Operands) -> relax.Expr:
    """X * hardsigmoid(x), as which ONNX defines it."""
    from tvm import relax

    return o.emit(relax.op.multiply(o.expr(0), _hard_sigmoid(o)))


@converter("elu.default")
def _elu(o: Operands) -> relax.Expr:
    """ELU with all its scales, as which PyTorch exports CELU and SELU, too."""
    from tvm import relax

    x, dtype = o.expr(0), o.out_dtype
    alpha, scale, inner_scale = (float(o.number(name)) for name in ("alpha", "scale", "input_scale"))
    inner = x if inner_scale == 1.0 else relax.op.multiply(x, relax.const(inner_scale, dtype))
    below = relax.op.nn.relu(relax.op.subtract(relax.const(1.0, dtype), relax.op.exp(inner)))
    below = relax.op.multiply(relax.const(-alpha * scale, dtype), below)
    above = relax.op.nn.relu(x)
    above = above if scale == 1.0 else relax.op.multiply(relax.const(scale, dtype), above)
    return o.emit(relax.op.add(below, above))


@converter("erfc.default", "special_erfc.default")
def _erfc(o: Operands) -> relax.Expr:
    from tvm import relax

    return o.emit(relax.op.subtract(relax.const(1.0, o.out_dtype), o.emit(relax.op.erf(o.operand(0, o.out_dtype)))))


@converter("exp2.default")
def _exp2(o: Operands) -> relax.Expr:
    from tvm import relax

    scaled = relax.op.multiply(o.operand(0, o.out_dtype), relax.const(math.log(2.0), o.out_dtype))
    return o.emit(relax.op.exp(o.emit(scaled)))


@converter("sinh.default", "cosh.default")
def _hyperbolic(o: Operands) -> relax.Expr:
    """(e^x - e^-x) / 2, or the sum. TVM's own functions do not compile; e^x - 1 is precise near zero."""
    from tvm import relax

    x, one = o.operand(0, o.out_dtype), relax.const(1.0, o.out_dtype)
    left, right = (o.emit(relax.op.exp(each)) for each in (x, o.emit(relax.op.negative(x))))
    if o.node.target.__name__.startswith("sinh"):
        left, right = (o.emit(relax.op.subtract(each, one)) for each in (left, right))
        both = relax.op.subtract(left, right)
    else:
        both = relax.op.add(left, right)
    return o.emit(relax.op.multiply(o.emit(both), relax.const(0.5, o.out_dtype)))


def _register_unary(name: str) -> None:
    """A function of one floating-point number. PyTorch computes that of an integer in float32."""

    @converter(f"{name}.default")
    def convert(o: Operands) -> relax.Expr:
        from tvm import relax

        return o.emit(getattr(relax.op, name)(o.operand(0, o.out_dtype)))


_UNARY = "acos acosh asin asinh atan atanh cos erf exp log rsqrt sigmoid sin sqrt tan tanh"
for _name in _UNARY.split():
    _register_unary(_name)


def _register_rounding(name: str) -> None:
    """A function that leaves integers as they are."""

    @converter(f"{name}.default")
    def convert(o: Operands) -> relax.Expr:
        from tvm import relax

        return o.emit(getattr(relax.op, name)(o.expr(0))) if "float" in o.out_dtype else o.expr(0)


for _name in ("ceil", "floor", "round", "trunc"):
    _register_rounding(_name)


@converter("full_like.default", "zeros_like.default", "ones_like.default", "new_full.default", "new_zeros.default")
@converter("new_ones.default")
def _filled(o: Operands) -> relax.Expr:
    """A tensor of one number, whose shape is known though its values are not read."""
    from tvm import relax

    name = o.node.target.__name__
    number = o.number("fill_value") if "full" in name else 1.0 if "ones" in name else 0.0
    value = relax.const(number, o.out_dtype)
    if o.shape(0) == o.out_shape and o.dtype(0) == o.out_dtype:
        return o.emit(relax.op.full_like(o.expr(0), value))
    return o.emit(relax.op.full(o.out_shape, value, o.out_dtype))
