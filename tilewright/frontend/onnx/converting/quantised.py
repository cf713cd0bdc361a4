"""Converters of quantised operators: their integers represent real numbers by a scale and a zero point.

Sums of products are exact, in int32. Rounding is to the nearest integer, and halves are rounded to the even one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.onnx.converting.operands import element, emit, has, operand, result_of, shape_of
from tilewright.frontend.onnx.converting.sliding import Sliding, convolve
from tilewright.frontend.onnx.importer import Operands, converter
from tilewright.ops.elementwise.affine import QUANTISATION
from tilewright.ops.function import BROADCAST, make_function
from tilewright.ops.rows.byte_range import MOST_ROWS, byte_scale, byte_zero_point, row_ends

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = ["saturate"]


def saturate(value: Expr, zero: Expr, dtype: str) -> Expr:
    """Round a float32 number, add the zero point, and limit the result to the range of ``dtype``."""
    from tvm import tirx

    limits = np.iinfo(dtype)
    low, high = (tirx.const(float(limit), "float32") for limit in (limits.min, limits.max))
    return tirx.max(tirx.min(tirx.nearbyint(value) + zero, high), low).astype(dtype)


@converter("QuantizeLinear")
def _quantize(given: Operands) -> Sequence[relax.Expr]:
    shape, dtype = result_of(given)
    np.iinfo(dtype)  # raises if it is a dtype of floating-point numbers
    places = _Places.of(given)

    def compute(x: Tensor, scale: Tensor, *zero: Tensor) -> Tensor:
        from tvm import te, tirx

        def at(*i: Expr) -> Expr:
            moved = places.at(zero[0], i).astype("float32") if zero else tirx.const(0.0, "float32")
            return saturate(x(*i).astype("float32") / places.at(scale, i).astype("float32"), moved, dtype)

        return te.compute(shape, at, name="quantize")

    return [_emit_marked(given, compute, "quantise", places, dtype)]


@converter("DequantizeLinear")
def _dequantize(given: Operands) -> Sequence[relax.Expr]:
    shape, dtype = result_of(given)
    places = _Places.of(given)

    def compute(x: Tensor, scale: Tensor, *zero: Tensor) -> Tensor:
        from tvm import te

        def at(*i: Expr) -> Expr:
            level = x(*i).astype("int32")
            if zero:
                level = level - places.at(zero[0], i).astype("int32")
            return (level.astype("float32") * places.at(scale, i).astype("float32")).astype(dtype)

        return te.compute(shape, at, name="dequantize")

    return [_emit_marked(given, compute, "dequantise", places, dtype)]


def _emit_marked(given: Operands, compute: Callable[..., Tensor], role: str, places: _Places, dtype: str) -> relax.Expr:
    """Emit a tensor expression, with an attribute by which the graph knows what it does."""
    from tvm import te

    operands = _present(given, 3)
    tensors = [te.placeholder(shape_of(x), str(x.ty.dtype), name=f"x{i}") for i, x in enumerate(operands)]
    result = compute(*tensors)
    function = make_function([*tensors, result], BROADCAST)
    if not places.block:
        function = function.with_attr(QUANTISATION, f"{role} {places.axis}")
    return _call(given, function, operands, shape_of(result), dtype, role)


class _Places:
    """The index of an element's scale. A tensor has one scale, one for each index of an axis, or one for each block.

    Args:
        rank: the number of dimensions of the tensor.
        axis: the axis.
        block: the elements of a block along the axis; 0: there are no blocks.
    """

    def __init__(self, rank: int, axis: int, block: int) -> None:
        self.rank, self.axis, self.block = rank, axis, block

    @classmethod
    def of(cls, given: Operands) -> _Places:
        """The indices of the scales of a node."""
        rank = len(shape_of(operand(given, 0)))
        axis = int(given.attributes.get("axis", 1))
        return cls(rank, axis % rank if rank else 0, int(given.attributes.get("block_size", 0)))

    def at(self, scale: Tensor, index: Sequence[Expr]) -> Expr:
        """The scale of the element at ``index``."""
        extents = shape_of(scale)
        if math.prod(extents) == 1:
            return element(scale)
        if len(extents) == 1 and not (self.block and self.rank == 1):
            return scale(index[self.axis if self.rank > 1 else 0])
        own = list(index)
        if self.block:
            own[self.axis] = own[self.axis] // self.block
        return scale(*own)


def _present(given: Operands, count: int) -> list[relax.Expr]:
    """Those of the first ``count`` inputs that are present."""
    return [operand(given, place) for place in range(count) if has(given, place)]


@converter("DynamicQuantizeLinear")
def _quantize_dynamically(given: Operands) -> Sequence[relax.Expr]:
    from tvm import relax

    x = operand(given, 0)
    shape = shape_of(x)
    count = math.prod(shape)
    rows = max((d for d in range(1, min(count, MOST_ROWS) + 1) if count % d == 0), default=1)
    lines = given.emit(relax.op.reshape(x, (rows, count // rows)))
    # The graph knows the lanes of a vector, and puts the same function by lanes in its place.
    plain = row_ends((rows, count // rows), 0).with_attr(QUANTISATION, "ends 0")
    ends = _call(given, plain, [lines], (rows, 2), "float32", "ends_of_rows")
    scale = _call(given, byte_scale(rows), [ends], (), "float32", "byte_scale")
    moved = _call(given, byte_zero_point(rows), [ends, scale], (), "uint8", "byte_zero_point")

    def quantize(x: Tensor, step: Tensor, moved: Tensor) -> Tensor:
        from tvm import te

        return te.compute(
            shape, lambda *i: saturate(x(*i) / step(), moved().astype("float32"), "uint8"), name="quantize"
        )

    return [emit(given, quantize, [x, scale, moved], "quantize"), scale, moved]


def _call(
    given: Operands,
    function: PrimFunc,
    operands: Sequence[relax.Expr],
    shape: tuple[int, ...],
    dtype: str,
    name: str,
) -> relax.Var:
    """Emit the call of a function."""
    from tvm import relax

    symbol = given.builder.add_func(function, name)
    return given.emit(relax.call_tir(symbol, list(operands), relax.TensorType(shape, dtype)))


@converter("ConvInteger")
def _convolve_integers(given: Operands) -> Sequence[relax.Expr]:
    return [_sum_convolution(given, (0, 2), (1, 3))]


@converter("MatMulInteger")
def _multiply_integers(given: Operands) -> Sequence[relax.Expr]:
    return [_sum_products(given, (0, 2), (1, 3))]


@converter("QLinearConv")
def _convolve_quantised(given: Operands) -> Sequence[relax.Expr]:
    total = _sum_convolution(given, (0, 2), (3, 5))
    return [_requantise(given, total, (1, 4, 6, 7), 8, channel=1)]


@converter("QLinearMatMul")
def _multiply_quantised(given: Operands) -> Sequence[relax.Expr]:
    total = _sum_products(given, (0, 2), (3, 5))
    return [_requantise(given, total, (1, 4, 6, 7), None, channel=-1)]


def _sum_convolution(given: Operands, data: tuple[int, int], weight: tuple[int, int]) -> relax.Var:
    """The int32 sums of a convolution. Its padding has the value of the zero point.

    Args:
        given: the node.
        data: the indices of the data and of its zero point among the inputs.
        weight: the indices of the weight and of its zero points, one for all or one for each output channel.
    """
    kernel = operand(given, weight[0])
    sliding = Sliding.of(given, shape_of(operand(given, data[0])), shape_of(kernel)[2:], result_of(given)[0])
    left, right = _widen(given, data, None), _widen(given, weight, 0)
    return convolve(given, (left, right), sliding, "int32")


def _sum_products(given: Operands, left: tuple[int, int], right: tuple[int, int]) -> relax.Var:
    """The int32 sums of a matrix product. There is one zero point, or one for each row (left) or column (right)."""
    from tvm import relax

    rows = len(shape_of(operand(given, left[0]))) - 2
    a, b = _widen(given, left, max(rows, 0)), _widen(given, right, -1)
    return given.emit(relax.op.matmul(a, b, out_dtype="int32"))


def _widen(given: Operands, places: tuple[int, int], axis: int | None) -> relax.Var:
    """An operand as int32, minus its zero point.

    Args:
        given: the node.
        places: the indices of the operand and of its zero points among the inputs.
        axis: the axis of the operand to which a vector of zero points belongs.
    """
    x = operand(given, places[0])
    shape = shape_of(x)

    def compute(x: Tensor, *zero: Tensor) -> Tensor:
        from tvm import te

        def at(*i: Expr) -> Expr:
            level = x(*i).astype("int32")
            if not zero:
                return level
            one = len(shape_of(zero[0])) == 1 and axis is not None
            return level - element(zero[0], [i[axis]] if one and axis is not None else i).astype("int32")

        return te.compute(shape, at, name="widen")

    from tvm import te

    operands = [x, *([operand(given, places[1])] if has(given, places[1]) else [])]
    tensors = [te.placeholder(shape_of(o), str(o.ty.dtype), name=f"x{i}") for i, o in enumerate(operands)]
    function = make_function([*tensors, compute(*tensors)], BROADCAST)
    function = function.with_attr(QUANTISATION, f"widen {axis or 0}")
    return _call(given, function, operands, shape, "int32", "widen")


def _requantise(
    given: Operands, total: relax.Expr, scales: tuple[int, int, int, int], bias: int | None, channel: int
) -> relax.Var:
    """The sums times both operands' scales, divided by the result's scale, as integers of the result.

    Args:
        given: the node.
        total: the sums.
        scales: the indices of the scales of the left and the right operand, and of the result's scale and zero point.
        bias: the index of the bias, which is added to the sums: an int32 number for each channel.
        channel: the axis of the result to which a vector of scales belongs.
    """
    shape, dtype = result_of(given)
    operands = [total, *(operand(given, place) for place in scales)]
    if bias is not None and has(given, bias):
        operands.append(operand(given, bias))

    def compute(total: Tensor, a: Tensor, b: Tensor, step: Tensor, zero: Tensor, *bias: Tensor) -> Tensor:
        from tvm import te

        def at(*i: Expr) -> Expr:
            amount = total(*i)
            if bias:
                amount = amount + bias[0](i[channel])
            left = element(a, [i[-2]] if len(shape_of(a)) == 1 and len(i) > 1 else i)
            right = element(b, [i[channel]] if len(shape_of(b)) == 1 else i)
            factor = left * right / element(step, [i[-2]] if len(shape_of(step)) == 1 and len(i) > 1 else i)
            own = [i[-2]] if len(shape_of(zero)) == 1 and len(i) > 1 else i
            return saturate(
                amount.astype("float32") * factor.astype("float32"), element(zero, own).astype("float32"), dtype
            )

        return te.compute(shape, at, name="requantize")

    return emit(given, compute, operands, "requantize")
