"""Converters of gradients that no decomposition of PyTorch serves: those of convolutions, norms and activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.frontend.torch.attention import ATTENTION, ATTENTION_GRADIENT
from tilewright.frontend.torch.converters.operands import Operands, Results, converter
from tilewright.frontend.torch.graph import shape_of
from tilewright.frontend.transposed import Axis, emit_transposed
from tilewright.ops.attention import Attention, Dims, attention
from tilewright.ops.attention_gradient import AttentionGradient, attention_gradient
from tilewright.ops.depthwise_gradient import DATA_GRADIENT, DataGradient, plain_data_gradient
from tilewright.ops.elementwise.elementary import gelu_in_training, gelu_slope
from tilewright.ops.elementwise.expression import GELU, GELU_SLOPE, apply_formula
from tilewright.ops.elementwise.gradients import ActivationGradient, activation_gradient
from tilewright.ops.pixel_sums import (
    NORM_SUMS,
    Statistics,
    WeightGradient,
    norm_sums,
    plain_statistics,
    plain_weight_gradient,
)
from tilewright.ops.rows import LAYER_NORM_GRADIENT, LOG_SUM_EXP, layer_norm_gradient, log_sum_exp

if TYPE_CHECKING:
    from tvm import relax, tirx

__all__: list[str] = []


@converter("convolution_backward.default")
def _convolution_backward(o: Operands) -> Results:
    """The gradients of the data, of the weights, and of the bias. What nobody asks for is None."""
    from tvm import relax

    if len(o.shape(0)) != 4:
        raise ValueError(
            "gradients of convolutions of images are compiled, but these have another number of dimensions"
        )
    data, weight, bias = (bool(wanted) for wanted in _mask(o))
    turned = bool(o.given("transposed"))
    return [
        (_turned_data_gradient(o) if turned else _data_gradient(o)) if data else None,
        _weight_gradient(o) if weight else None,
        o.emit(relax.op.sum(o.expr("grad_output"), [0, 2, 3])) if bias else None,
    ]


def _mask(o: Operands) -> tuple[bool, ...]:
    mask = o.given("output_mask")
    assert isinstance(mask, list | tuple)
    return tuple(bool(wanted) and o.reads(place) for place, wanted in enumerate(mask))


def _axes(o: Operands) -> tuple[Axis, ...]:
    given = [o.integers(name, 2) for name in ("stride", "padding", "dilation")]
    shapes = [o.shape(name)[2:] for name in ("input", "grad_output", "weight")]
    return tuple(Axis(*numbers) for numbers in zip(*shapes, *given, strict=True))


def _weight_gradient(o: Operands) -> relax.Expr:
    """The gradient of the weights. A transposed convolution has the roles of its data and its result swapped."""
    from tvm import relax

    data, dy = ("grad_output", "input") if o.given("transposed") else ("input", "grad_output")
    rows, cols = ([o.integers(name, 2)[d] for name in ("stride", "padding", "dilation")] for d in range(2))
    gradient = WeightGradient(
        o.shape(data),
        o.shape("weight"),
        (rows[0], cols[0]),
        (rows[1], cols[1], rows[1], cols[1]),
        (rows[2], cols[2]),
        o.integer("groups"),
    )
    # The last pixels of the data may be out of every window's reach.
    function = o.builder.add_func(plain_weight_gradient(gradient), "weight_gradient")
    kind = relax.TensorType(gradient.weight, o.dtype("weight"))
    return o.emit(relax.call_tir(function, [o.expr(data), o.expr(dy)], kind))


def _turned_data_gradient(o: Operands) -> relax.Expr:
    """The gradient of the data of a transposed convolution, which is a convolution."""
    from tvm import relax

    stride, padding, dilation = (o.integers(name, 2) for name in ("stride", "padding", "dilation"))
    result = relax.op.nn.conv2d(
        o.expr("grad_output"),
        o.expr("weight"),
        strides=list(stride),
        padding=[*padding, *padding],
        dilation=list(dilation),
        groups=o.integer("groups"),
        data_layout="NCHW",
        kernel_layout="OIHW",
    )
    return o.emit(result)


def _data_gradient(o: Operands) -> relax.Expr:
    """The gradient of the data: the transposed convolution of the output's gradient."""
    from tvm import relax

    gradient = _depthwise_gradient(o)
    if gradient is not None:
        function = o.builder.add_func(plain_data_gradient(gradient), DATA_GRADIENT)
        kind = relax.TensorType(gradient.data, "float32")
        return o.emit(relax.call_tir(function, [o.expr("grad_output"), o.expr("weight")], kind))
    return emit_transposed(o, o.expr("grad_output"), o.expr("weight"), _axes(o), o.integer("groups"))


def _depthwise_gradient(o: Operands) -> DataGradient | None:
    """The gradient of the data of a depthwise convolution with a stride; None: it is another convolution."""
    data, out, depth = o.shape("input"), o.shape("grad_output"), o.shape("weight")[1]
    channels, stride, dilation = data[1], o.integers("stride", 2), o.integers("dilation", 2)
    depthwise = o.integer("groups") == channels == out[1] > 1 and depth == 1
    if not depthwise or max(stride) == 1 or max(dilation) > 1 or o.dtype("input") != "float32":
        return None
    top, left = o.integers("padding", 2)
    n, _, height, width = data
    kernel = o.shape("weight")
    return DataGradient(
        (n, channels, height, width),
        (out[2], out[3]),
        (kernel[2], kernel[3]),
        (stride[0], stride[1]),
        (top, left),
    )


@converter("tilewright.channel_statistics.default")
def _channel_statistics(o: Operands) -> Results:
    """Mean and variance of each channel, or the sums that the gradient of a batch norm needs."""
    from tvm import relax

    n, channels, height, width = o.shape("x")
    gradient, mean = o.optional("gradient"), o.optional("mean")
    statistics = Statistics((n, channels, height, width), gradient is not None)
    operands = [o.expr("x")] if gradient is None else [gradient, o.expr("x"), mean]
    function = o.builder.add_func(plain_statistics(statistics), "channel_statistics")
    return o.emit(relax.call_tir(function, operands, relax.TensorType((2, channels), o.dtype("x"))))


#: The numbers of activations, by the names of the arguments of the operators that compute their gradients.
_NUMBERS = {
    "threshold": ("threshold",),
    "hardswish": (),
    "hardsigmoid": (),
    "hardtanh": ("min_val", "max_val"),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha", "scale", "input_scale", "is_result"),
    "silu": (),
    "gelu": (),
}


@converter(*(f"{name}_backward.default" for name in _NUMBERS))
def _activation_backward(o: Operands) -> Results:
    """The gradient of an activation's data. Where operands are blocked, it is computed in blocks.

    A gradient that is the same for all pixels, such as that of their mean, is not written for each of them.
    """
    import torch
    from tvm import relax

    activation = o.node.target.__name__.partition("_backward")[0]
    data = "self_or_result" if activation == "elu" else "self"
    given, shape = o.given("grad_output"), o.shape(data)
    if {o.dtype("grad_output"), o.dtype(data)} != {"float32"} or o.shape("grad_output") != shape:
        raise ValueError("gradients of activations are compiled for float32 operands of one shape")
    dy = o.expr("grad_output")
    if isinstance(given, torch.fx.Node) and given.target is torch.ops.aten.expand.default:
        source = given.args[0]
        if isinstance(source, torch.fx.Node) and len(shape_of(source)) == len(shape):
            dy = o.values[source]
    gradient = ActivationGradient(activation, tuple(float(o.number(name)) for name in _NUMBERS[activation]))
    own = tuple(int(d) for d in dy.ty.shape.values)
    function = o.builder.add_func(activation_gradient(gradient, own, shape, marked=True), gradient.name)
    return o.emit(relax.call_tir(function, [dy, o.expr(data)], relax.TensorType(shape, "float32")))


@converter("tilewright.gelu_slope.default")
def _gelu_slope(o: Operands) -> Results:
    return _call(o, apply_formula(gelu_slope, o.shape(0), GELU_SLOPE, marked=True), GELU_SLOPE)


@converter("tilewright.gelu_in_training.default")
def _gelu(o: Operands) -> Results:
    return _call(o, apply_formula(gelu_in_training, o.shape(0), GELU, marked=True), GELU)


@converter("tilewright.layer_norm_gradient.default")
def _layer_norm_gradient(o: Operands) -> Results:
    rows, columns = o.shape("gradient")
    return _call(o, layer_norm_gradient((rows, columns), 0), LAYER_NORM_GRADIENT)


@converter("tilewright.norm_sums.default")
def _norm_sums(o: Operands) -> Results:
    return _call(o, norm_sums(*o.shape("gradient"), 0), NORM_SUMS)


@converter("tilewright.log_sum_exp.default")
def _log_sum_exp(o: Operands) -> Results:
    rows, columns = o.shape(0)
    return _call(o, log_sum_exp((rows, columns), 0), LOG_SUM_EXP)


@converter(f"tilewright.{ATTENTION}.default")
def _attention(o: Operands) -> Results:
    """Attention, and the logarithms of the sums of exponentials, as plain loops."""
    from tvm import relax

    form = _plain_attention(o)
    kinds = [relax.TensorType(form.shapes[name], "float32") for name in ("out", "sums")]
    operands = [o.expr(name) for name in ("query", "key", "value")]
    results = o.emit(relax.call_tir(o.builder.add_func(attention(form), "attention"), operands, kinds))
    out, sums = (o.emit(relax.TupleGetItem(results, place)) for place in range(2))
    return [out, o.reshape(sums, (*form.batch, form.queries))]


@converter(f"tilewright.{ATTENTION_GRADIENT}.default")
def _attention_gradient(o: Operands) -> Results:
    """The gradients of queries, keys and values, as plain loops."""
    from tvm import relax

    form = _plain_attention(o)
    dims = (*form.extents(form.out[:2]), (form.queries, ("query", 0)), (form.width, ("width", 0)))
    gradient = AttentionGradient(form, dims, form.q, form.k, form.v)
    kinds = [relax.TensorType(gradient.shapes[name], "float32") for name in gradient.results]
    operands = [o.expr(name) for name in ("gradient", "query", "key", "value", "out")]
    operands.append(o.reshape(o.expr("sums"), form.shapes["sums"]))
    function = o.builder.add_func(attention_gradient(gradient), ATTENTION_GRADIENT)
    results = o.emit(relax.call_tir(function, operands, kinds))
    return [o.emit(relax.TupleGetItem(results, place)) for place in range(3)]


def _plain_attention(o: Operands) -> Attention:
    """The attention of an operator with queries, keys and values in plain order."""
    (n, heads, queries, depth), keys, width = o.shape("query"), o.shape("key")[2], o.shape("value")[3]
    if {o.dtype(name) for name in ("query", "key", "value")} != {"float32"}:
        raise ValueError("attention in training is compiled for float32")
    batch: Dims = ((n, ("batch", 0)), (heads, ("batch", 1)))
    return Attention(
        (n, heads),
        queries,
        keys,
        depth,
        width,
        (*batch, (queries, ("query", 0)), (depth, ("depth", 0))),
        (*batch, (keys, ("key", 0)), (depth, ("depth", 0))),
        (*batch, (keys, ("key", 0)), (width, ("width", 0))),
        (("batch", 0), ("batch", 1), ("query", 0), ("width", 0)),
        scale=o.number("scale"),
        causal=bool(o.given("causal")),
        sums=True,
    )


def _call(o: Operands, function: tirx.PrimFunc, name: str) -> relax.Expr:
    """A call of a function of all operands, in float32."""
    from tvm import relax

    operands = [o.expr(place) for place in range(len(o.node.args))]
    if any(o.dtype(place) != "float32" for place in range(len(operands))):
        raise ValueError("gradients of norms and activations are compiled for float32")
    kind = relax.TensorType(o.out_shape, "float32")
    return o.emit(relax.call_tir(o.builder.add_func(function, name), operands, kind))
