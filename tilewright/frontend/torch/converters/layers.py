"""Converters of layers: products, convolutions, norms, and resizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.torch.converters.operands import Operands, Results, converter
from tilewright.frontend.transposed import Axis, emit_transposed
from tilewright.ops.rows import ROW_MOMENTS, row_moments

if TYPE_CHECKING:
    from tvm import relax

__all__: list[str] = []


@converter("linear.default")
def _linear(o: Operands) -> relax.Expr:
    """X w^T + bias, as TVM's importer writes ONNX's Gemm and MatMul."""
    from tvm import relax

    weight = o.expr("weight")
    if len(o.shape("weight")) == 1:
        result = o.emit(relax.op.matmul(o.expr(0), weight))
    else:
        result = o.emit(relax.op.matmul(o.expr(0), o.emit(relax.op.permute_dims(weight, [1, 0]))))
    return _add_bias(o, result, o.optional("bias"))


def _add_bias(o: Operands, result: relax.Expr, bias: relax.Expr | None) -> relax.Expr:
    from tvm import relax

    return result if bias is None else o.emit(relax.op.add(result, bias))


@converter("mm.default", "bmm.default", "matmul.default", "mv.default", "dot.default")
def _product(o: Operands) -> relax.Expr:
    from tvm import relax

    return o.emit(relax.op.matmul(o.expr(0), o.expr(1)))


@converter("addmm.default", "baddbmm.default", "addmv.default")
def _sum_of_products(o: Operands) -> relax.Expr:
    """Alpha * (a b) + beta * x"""
    from tvm import relax

    dtype = o.out_dtype
    result = o.emit(relax.op.matmul(o.expr(1), o.expr(2)))
    if o.number("alpha") != 1:
        result = o.emit(relax.op.multiply(result, relax.const(o.number("alpha"), dtype)))
    if o.number("beta") == 0:
        return result
    term = o.expr(0)
    if o.number("beta") != 1:
        term = o.emit(relax.op.multiply(term, relax.const(o.number("beta"), dtype)))
    return o.emit(relax.op.add(result, term))


#: The layouts of convolutions by the number of spatial dimensions.
_LETTERS = {1: "W", 2: "HW", 3: "DHW"}


@converter("convolution.default")
def _convolution(o: Operands) -> relax.Expr:
    from tvm import relax

    rank = len(o.shape(0)) - 2
    letters = _LETTERS[rank]
    common = {
        "strides": o.integers("stride", rank),
        "padding": o.integers("padding", rank) * 2,
        "dilation": o.integers("dilation", rank),
        "groups": o.integer("groups"),
        "data_layout": f"NC{letters}",
    }
    if o.given("transposed") and rank < 3 and o.dtype(0) == "float32":
        given = (o.integers(name, rank) for name in ("stride", "padding", "dilation"))
        extents = (o.out_shape[2:], o.shape(0)[2:], o.shape(1)[2:], *given)
        result = emit_transposed(o, o.expr(0), o.expr(1), tuple(map(Axis, *extents)), o.integer("groups"))
    elif o.given("transposed"):
        function = getattr(relax.op.nn, f"conv{rank}d_transpose")
        more = o.integers("output_padding", rank)
        result = o.emit(function(o.expr(0), o.expr(1), **common, output_padding=more, kernel_layout=f"IO{letters}"))
    else:
        function = getattr(relax.op.nn, f"conv{rank}d")
        result = o.emit(function(o.expr(0), o.expr(1), **common, kernel_layout=f"OI{letters}"))
    bias = o.optional("bias")
    if bias is not None:
        bias = o.reshape(bias, [1, o.out_shape[1], *[1] * rank])
    return _add_bias(o, result, bias)


@converter("native_layer_norm.default")
def _layer_norm(o: Operands) -> Results:
    """A layer norm over the last dimension, with the mean and the inverse deviation of each row if these are read."""
    from tvm import relax

    epsilon = float(np.float32(o.number("eps")))  # as ONNX files have it, so that both have the same tasks
    result = o.emit(relax.op.nn.layer_norm(o.expr(0), o.expr("weight"), o.expr("bias"), [-1], epsilon))
    if not o.reads(1) and not o.reads(2):
        return [result, None, None]
    columns = o.shape(0)[-1]
    rows = math.prod(o.shape(0)[:-1])
    if o.dtype(0) != "float32":
        raise ValueError("the statistics of a layer norm are compiled for float32")
    function = o.builder.add_func(row_moments((rows, columns), 0, epsilon), ROW_MOMENTS)
    data = o.reshape(o.expr(0), (rows, columns))
    moments = o.emit(relax.call_tir(function, [data], relax.TensorType((rows, 2), "float32")))
    parts = o.emit(relax.op.split(moments, 2, 1))
    kept = (*o.shape(0)[:-1], 1)
    return [result, *(o.reshape(o.emit(relax.TupleGetItem(parts, place)), kept) for place in range(2))]


@converter("_native_batch_norm_legit_no_training.default")
def _batch_norm(o: Operands) -> Results:
    """A batch norm whose statistics are computed by the network."""
    from tvm import relax

    shape = o.shape(0)
    column = [1, shape[1], *[1] * (len(shape) - 2)]
    gamma, beta = (o.optional(name) for name in ("weight", "bias"))
    mean, variance = o.expr("running_mean"), o.expr("running_var")
    epsilon = relax.const(float(o.number("eps")), o.dtype(0))
    scale = o.emit(relax.op.rsqrt(o.emit(relax.op.add(variance, epsilon))))
    scale = scale if gamma is None else o.emit(relax.op.multiply(scale, gamma))
    centred = o.emit(relax.op.subtract(o.expr(0), o.reshape(mean, column)))
    result = o.emit(relax.op.multiply(centred, o.reshape(scale, column)))
    return [_add_bias(o, result, None if beta is None else o.reshape(beta, column)), None, None]


@converter("upsample_nearest2d.vec", "upsample_bilinear2d.vec", "upsample_bicubic2d.vec")
def _resize(o: Operands) -> relax.Expr:
    """A resize of an image by the ratio of its sizes (``interpolation.is_plain``)."""
    from tvm import relax

    name = o.node.target.__name__
    size = tuple(o.out_shape[2:])
    if "nearest" in name:
        return o.emit(
            relax.op.image.resize2d(
                o.expr(0),
                size,
                method="nearest_neighbor",
                coordinate_transformation_mode="asymmetric",
                rounding_method="floor",
            )
        )
    corners = "align_corners" if o.given("align_corners") else "half_pixel"
    method = "linear" if "bilinear" in name else "cubic"
    return o.emit(relax.op.image.resize2d(o.expr(0), size, method=method, coordinate_transformation_mode=corners))
