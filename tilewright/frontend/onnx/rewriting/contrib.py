"""Rewritings of operators of the domain ``com.microsoft``. Files that ONNX Runtime has optimised contain them.

ONNX Runtime defines these operators in its file ``ContribOperators.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from tilewright.frontend.onnx.rewriting.elementwise import gelu_of
from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes
from tilewright.frontend.onnx.rewriting.normalisation import in_float32, normalise, root_mean_square
from tilewright.frontend.onnx.rewriting.registry import rewriting
from tilewright.frontend.onnx.rewriting.shapes import as_shape

__all__ = ["DOMAIN", "activate", "number", "optional", "wanted"]

#: The domain.
DOMAIN = "com.microsoft"


def number(node: onnx.NodeProto, name: str, default: float) -> float:
    """An attribute that is a number."""
    value = read_attributes(node).get(name, default)
    assert isinstance(value, int | float)
    return value


def optional(node: onnx.NodeProto, place: int) -> str:
    """The name of an input; empty if it is absent."""
    return node.input[place] if place < len(node.input) else ""


def wanted(node: onnx.NodeProto, place: int) -> str:
    """The name of an output; empty if it is not used."""
    return node.output[place] if place < len(node.output) else ""


def _floats(value: object) -> list[float]:
    return [float(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else []


def activate(graph: Graph, name: str, kind: str, parameters: Sequence[float], out: str) -> bool:
    """Write the activation at the end of a fused operator. Returns whether the activation is known.

    Args:
        graph: the graph.
        name: the input of the activation.
        kind: the operator; empty: none.
        parameters: its attributes, in ONNX Runtime's order.
        out: the name of the result.
    """
    names: dict[str, tuple[str, ...]] = {
        "": (),
        "Relu": (),
        "Sigmoid": (),
        "Tanh": (),
        "HardSwish": (),
        "Softplus": (),
        "Softsign": (),
        "LeakyRelu": ("alpha",),
        "Elu": ("alpha",),
        "ThresholdedRelu": ("alpha",),
        "HardSigmoid": ("alpha", "beta"),
    }
    if kind == "Clip" and len(parameters) == 2:
        graph.op("Clip", name, graph.like(name, parameters[0]), graph.like(name, parameters[1]), out=out)
        return True
    if kind not in names:
        return False
    alpha, beta = (dict(zip(names[kind], parameters, strict=False)).get(part) for part in ("alpha", "beta"))
    graph.op(kind or "Identity", name, out=out, alpha=alpha, beta=beta)
    return True


_ACTIVATIONS = (
    *("", "Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Softsign"),
    *("LeakyRelu", "Elu", "ThresholdedRelu", "HardSigmoid", "Clip"),
)


@rewriting("FusedConv", domain=DOMAIN)
def fused_conv(graph: Graph, node: onnx.NodeProto) -> bool:
    """FusedConv(x, w, b, z) --> activation(Conv(x, w, b) + z)."""
    attributes = read_attributes(node)
    kind, parameters = str(attributes.get("activation", "")), _floats(attributes.get("activation_params"))
    if kind not in _ACTIVATIONS:
        return False
    conv = copy_node(node, ("activation", "activation_params"))
    conv.op_type, conv.domain = "Conv", ""
    del conv.input[3:]
    conv.output[0] = graph.new_name("conv")
    graph.add(conv)
    name = conv.output[0]
    if optional(node, 3):
        name = graph.op("Add", name, node.input[3])
    activate(graph, name, kind, parameters, node.output[0])
    return True


@rewriting("FusedGemm", domain=DOMAIN)
def fused_gemm(graph: Graph, node: onnx.NodeProto) -> bool:
    """FusedGemm(a, b, c) --> activation(Gemm(a, b, c))."""
    attributes = read_attributes(node)
    kind = str(attributes.get("activation", ""))
    parameters = [
        float(v) for n in ("alpha", "beta", "gamma") if isinstance(v := attributes.get(f"activation_{n}"), int | float)
    ]
    if kind not in _ACTIVATIONS:
        return False
    gemm = copy_node(node, ("activation", "activation_alpha", "activation_beta", "activation_gamma"))
    gemm.op_type, gemm.domain, gemm.output[0] = "Gemm", "", graph.new_name("gemm")
    graph.add(gemm)
    activate(graph, gemm.output[0], kind, parameters, node.output[0])
    return True


@rewriting("FusedMatMul", "TransposeMatMul", domain=DOMAIN)
def fused_matmul(graph: Graph, node: onnx.NodeProto) -> bool:
    """FusedMatMul(a, b) --> MatMul(Transpose(a), Transpose(b)) * alpha."""
    names = []
    for name, side in zip(node.input, "AB", strict=True):
        rank = graph.rank(name)
        swap, moved = bool(number(node, f"trans{side}", 0)), bool(number(node, f"transBatch{side}", 0))
        if (swap or moved) and rank is None:
            return False
        order = list(range(rank or 0))
        if moved and len(order) > 2:  # the first axis moves to the last but one place
            order = [*order[1:-1], order[0], order[-1]]
        if swap and len(order) > 1:
            order[-2:] = order[-1], order[-2]
        names.append((name, order))
    operands = [name if order == sorted(order) else graph.op("Transpose", name, perm=order) for name, order in names]
    alpha = number(node, "alpha", 1.0)
    if alpha == 1.0:
        graph.op("MatMul", *operands, out=node.output[0])
    else:
        product = graph.op("MatMul", *operands)
        graph.op("Mul", product, graph.like(product, alpha), out=node.output[0])
    return True


@rewriting("Gelu", "BiasGelu", "FastGelu", domain=DOMAIN)
def gelu(graph: Graph, node: onnx.NodeProto) -> bool:
    """BiasGelu(x, bias) --> Gelu(x + bias); FastGelu approximates it by a hyperbolic tangent."""
    x = node.input[0]
    if not graph.elem_type(x):
        return False
    if optional(node, 1):
        x = graph.op("Add", x, node.input[1])
    tanh = node.op_type == "FastGelu"
    if graph.opset >= 20:
        graph.op("Gelu", x, out=node.output[0], approximate="tanh" if tanh else "none")
    else:
        gelu_of(graph, x, node.output[0], tanh)
    return True


@rewriting("QuickGelu", domain=DOMAIN)
def quick_gelu(graph: Graph, node: onnx.NodeProto) -> bool:
    """QuickGelu(x) --> x * Sigmoid(alpha * x)."""
    x = node.input[0]
    if not graph.elem_type(x):
        return False
    scaled = graph.op("Mul", x, graph.like(x, number(node, "alpha", 1.702)))
    graph.op("Mul", x, graph.op("Sigmoid", scaled), out=node.output[0])
    return True


@rewriting("BiasSplitGelu", domain=DOMAIN)
def bias_split_gelu(graph: Graph, node: onnx.NodeProto) -> bool:
    """BiasSplitGelu(x, bias) --> left * Gelu(right), for the halves of x + bias along the last axis."""
    shape = graph.shape(node.input[0])
    if shape is None:
        return False
    total = graph.op("Add", node.input[0], node.input[1])
    half = shape[-1] // 2
    names = (graph.new_name("left"), graph.new_name("right"))
    left, right = graph.ops("Split", total, as_shape((half, half)), outs=names, axis=-1)
    graph.op("Mul", left, gelu_of(graph, right), out=node.output[0])
    return True


@rewriting("BiasAdd", domain=DOMAIN)
def bias_add(graph: Graph, node: onnx.NodeProto) -> bool:
    """BiasAdd(x, bias, skip) --> x + bias + skip."""
    graph.op("Add", graph.op("Add", node.input[0], node.input[1]), node.input[2], out=node.output[0])
    return True


@rewriting("BiasSoftmax", domain=DOMAIN)
def bias_softmax(graph: Graph, node: onnx.NodeProto) -> bool:
    """BiasSoftmax(x, bias) --> Softmax(x + bias), over all axes from ``axis`` on."""
    shape, bias = graph.shape(node.input[0]), graph.shape(node.input[1])
    if shape is None or bias is None or len(bias) != len(shape):
        return False
    axis = int(number(node, "axis", 1)) % len(shape)
    total = graph.op("Add", *node.input[:2])
    if axis == len(shape) - 1:
        graph.op("Softmax", total, out=node.output[0], axis=-1)
        return True
    rows = graph.op("Softmax", graph.op("Flatten", total, axis=axis), axis=-1)
    graph.op("Reshape", rows, as_shape(shape), out=node.output[0])
    return True


@rewriting("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_layer_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """SkipLayerNormalization(x, skip) --> LayerNormalization(x + skip + bias).

    The simplified one subtracts no mean, and has no ``beta``. The sum is its fourth output.
    """
    x = node.input[0]
    if graph.shape(x) is None:
        return False
    simplified = "Simplified" in node.op_type
    gamma, beta = node.input[2], "" if simplified else optional(node, 3)
    bias = optional(node, 3 if simplified else 4)
    total = graph.op("Add", x, node.input[1], out="" if bias else wanted(node, 3))
    if bias:
        total = graph.op("Add", total, bias, out=wanted(node, 3))
    epsilon = number(node, "epsilon", 1e-12)
    _layer_norm(graph, total, (gamma, beta), epsilon, (node.output[0], wanted(node, 1), wanted(node, 2)), simplified)
    return True


def _layer_norm(
    graph: Graph,
    x: str,
    parameters: tuple[str, str],
    epsilon: float,
    outs: tuple[str, str, str],
    simplified: bool = False,
) -> None:
    """Write the layer norm of the last axis. ``outs``: the names of the result, the mean, the inverse deviation."""
    gamma, beta = parameters
    if not simplified:
        graph.ops("LayerNormalization", x, gamma, beta or None, outs=_trimmed(outs), axis=-1, epsilon=epsilon)
        return
    normal, inverse = root_mean_square(graph, in_float32(graph, x), [-1], epsilon)
    if graph.elem_type(normal) != graph.elem_type(x):
        normal = graph.op("Cast", normal, to=graph.elem_type(x))
    graph.op("Mul", normal, gamma, out=outs[0])
    if outs[2]:
        graph.op("Identity", inverse, out=outs[2])


def _trimmed(names: Sequence[str]) -> list[str]:
    """The names without the empty ones at the end."""
    kept = list(names)
    while not kept[-1]:
        kept.pop()
    return kept


@rewriting("SimplifiedLayerNormalization")
@rewriting("SimplifiedLayerNormalization", domain=DOMAIN)
def simplified_layer_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """SimplifiedLayerNormalization(x, scale) --> x / sqrt(mean(x * x) + epsilon) * scale."""
    x, shape = node.input[0], graph.shape(node.input[0])
    if shape is None:
        return False
    first = int(number(node, "axis", -1)) % len(shape)
    wide = in_float32(graph, x)
    normal, inverse = root_mean_square(graph, wide, range(first, len(shape)), number(node, "epsilon", 1e-5))
    if wide != x:
        normal = graph.op("Cast", normal, to=graph.elem_type(x))
    graph.op("Mul", normal, node.input[1], out=node.output[0])
    if wanted(node, 1):
        graph.op("Identity", inverse, out=wanted(node, 1))
    return True


@rewriting("EmbedLayerNormalization", domain=DOMAIN)
def embed_layer_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """EmbedLayerNormalization --> LayerNormalization(Gather(words) + Gather(places) + Gather(segments))."""
    ids, segments, words, places, segment_table, gamma, beta = node.input[:7]
    shape = graph.shape(ids)
    if shape is None:
        return False
    mask, given = optional(node, 7), optional(node, 8)
    if given:
        positions = graph.op("Gather", places, given, axis=0)
    else:
        positions = graph.op("Gather", places, np.arange(shape[1], dtype=np.int64).reshape(1, -1), axis=0)
    total = graph.op("Add", graph.op("Gather", words, ids, axis=0), positions)
    if segments:
        total = graph.op("Add", total, graph.op("Gather", segment_table, segments, axis=0))
    if wanted(node, 2):
        graph.op("Identity", total, out=wanted(node, 2))
    _layer_norm(graph, total, (gamma, beta), number(node, "epsilon", 1e-12), (node.output[0], "", ""))
    if wanted(node, 1):
        if mask:
            graph.op("ReduceSum", mask, as_shape((1,)), out=wanted(node, 1), keepdims=0)
        else:
            graph.op("Identity", np.zeros(shape[0], dtype=np.int32), out=wanted(node, 1))
    return True


@rewriting("GroupNorm", "SkipGroupNorm", domain=DOMAIN)
def group_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """GroupNorm(x, gamma, beta) --> y = normalised groups * gamma + beta; with an activation, y * Sigmoid(y).

    The channels are the last axis, or the first one after the batch.
    """
    x, gamma, beta = node.input[:3]
    shape = graph.shape(x)
    if shape is None or node.op_type != "GroupNorm" or 0 in shape:
        return False
    groups, last = int(number(node, "groups", 0)), bool(number(node, "channels_last", 1))
    rank = len(shape)
    first = [0, rank - 1, *range(1, rank - 1)]
    moved = graph.op("Transpose", x, perm=first) if last else x
    inner = graph.shape(moved)
    assert inner is not None
    wide = in_float32(graph, moved)
    rows = graph.op("Reshape", wide, as_shape((inner[0], groups, -1)))
    normal, _, _ = normalise(graph, rows, [2], number(node, "epsilon", 1e-5))
    name = graph.op("Reshape", normal, as_shape(inner))
    for kind, parameter in (("Mul", gamma), ("Add", beta)):
        column = graph.op("Reshape", in_float32(graph, parameter), as_shape((-1, *(1,) * (rank - 2))))
        name = graph.op(kind, name, column)
    if number(node, "activation", 0):
        name = graph.op("Mul", name, graph.op("Sigmoid", name))
    if last:
        name = graph.op("Transpose", name, perm=[0, *range(2, rank), 1])
    graph.op("Cast", name, out=node.output[0], to=graph.elem_type(x) or TensorProto.FLOAT)
    return True
