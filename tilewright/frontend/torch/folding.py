"""Folds constants, and batch norms into the convolution or dense layer before them.

What ``torch.fx.experimental.optimization.fuse`` and ``torch.nn.utils.fusion`` do on modules is done here on graphs, in
float64, as ONNX Runtime does it to ONNX files.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.frontend.torch.graph import TorchGraph, shape_of

if TYPE_CHECKING:
    import torch
    from torch import fx

__all__ = ["fold_constants", "fold_norms"]

#: A tensor that is repeated to more bytes than these stays a repetition.
_LARGEST_REPEATED = 1 << 16
#: The most bytes of a constant that is made of nothing, such as a range of integers. Masks have up to some millions.
_LARGEST_MADE = 1 << 28


def fold_constants(graph: TorchGraph) -> None:
    """f(weight) --> another weight, computed by PyTorch, as far as no input reaches.

    Sums and products with one number are exact in another order of loops, but not bit by bit: outputs are judged by
    the program as it was.
    """
    import torch

    values: dict[fx.Node, object] = dict(graph.weights)
    with torch.no_grad():
        for node in graph.calls:
            if _is_foldable(node, values):
                try:
                    values[node] = _evaluate(node, values)
                except (
                    RuntimeError,
                    NotImplementedError,
                    TypeError,
                    ValueError,
                    LookupError,
                ):  # an operator that does not run here
                    continue
    made = [node for node in values if node.op == "call_function"]
    for node in [node for node in made if any(user not in values for user in node.users)]:
        _store(graph, node, values)
    graph.drop_dead()


def _is_foldable(node: fx.Node, values: Mapping[fx.Node, object]) -> bool:
    if not (hasattr(node.target, "_schema") or node.target is operator.getitem):
        return False
    if not all(source in values for source in node.all_input_nodes):
        return False
    value = node.meta["val"]
    return not hasattr(value, "shape") or math.prod(shape_of(node)) * value.dtype.itemsize <= _LARGEST_MADE


def _evaluate(node: fx.Node, values: Mapping[fx.Node, object]) -> object:
    import torch

    if str(node.target).startswith("aten.empty"):  # any number will do
        return torch.zeros(shape_of(node), dtype=node.meta["val"].dtype)
    args, kwargs = (torch.fx.node.map_arg(given, values.__getitem__) for given in (node.args, node.kwargs))
    return node.target(*args, **kwargs)


def _store(graph: TorchGraph, node: fx.Node, values: Mapping[fx.Node, object]) -> None:
    """Make a weight of a value that is read outside of the constants."""
    import torch

    value = values[node]
    if not isinstance(value, torch.Tensor):
        return
    source = node.args[0] if node.args else None
    grown = "expand" in str(node.target) and value.nbytes > _LARGEST_REPEATED
    if grown and source in values:
        if source not in graph.weights:
            _store(graph, source, values)
        return
    stored = graph.add_weight(f"{node.name}_folded", value.contiguous())
    node.replace_all_uses_with(stored)


@dataclass(frozen=True)
class _Affine:
    """x * scale + shift, a number for each channel.

    Attributes:
        x: the operand.
        scale, shift: in float64, of shape ``(channels,)``.
        result: the node that has the result.
    """

    x: fx.Node
    scale: torch.Tensor
    shift: torch.Tensor
    result: fx.Node


def fold_norms(graph: TorchGraph) -> None:
    """batch_norm(convolution(x, w)) --> convolution(x, w'); other batch norms --> x * scale + shift.

    A constant factor or term for each channel is folded in the same way. A layer with another reader stays.
    """
    import torch

    aten = torch.ops.aten
    for node in graph.calls:
        found = _read_norm(graph, node) or _read_arithmetic(graph, node)
        if found is None:
            continue
        if _absorb(graph, found):
            graph.replace(found.result, found.x)
        elif node.target is aten._native_batch_norm_legit_no_training.default:
            column = (-1, *[1] * (len(shape_of(found.x)) - 2))
            dtype = found.x.meta["val"].dtype
            result = found.x
            for target, values, word in (
                (aten.mul.Tensor, found.scale, "scale"),
                (aten.add.Tensor, found.shift, "shift"),
            ):
                weight = graph.add_weight(f"{node.name}_{word}", values.to(dtype).reshape(column))
                result = graph.insert(found.result, target, result, weight)
            graph.replace(found.result, result)
    graph.drop_dead()


def _read_norm(graph: TorchGraph, node: fx.Node) -> _Affine | None:
    """A batch norm in evaluation, if its statistics are constants and nothing but its result is read."""
    import torch

    if node.target is not torch.ops.aten._native_batch_norm_legit_no_training.default:
        return None
    x, *parts = node.args[:5]
    results = [user for user in node.users if user.args[1] == 0]
    others = [user for user in node.users if user.args[1] != 0 and user.users]
    if any(part is not None and part not in graph.weights for part in parts) or len(results) != 1 or others:
        return None
    mean, variance = (graph.weights[part].double() for part in parts[2:])
    gamma, beta = (None if part is None else graph.weights[part].double() for part in parts[:2])
    scale = (variance + node.args[6]).rsqrt() if gamma is None else gamma / (variance + node.args[6]).sqrt()
    shift = -mean * scale if beta is None else beta - mean * scale
    return _Affine(x, scale, shift, results[0])


def _read_arithmetic(graph: TorchGraph, node: fx.Node) -> _Affine | None:
    """A product or sum with a constant that has one number, or one number for each channel."""
    import torch

    aten = torch.ops.aten
    if node.target not in (aten.mul.Tensor, aten.add.Tensor) or node.kwargs.get("alpha", 1) != 1:
        return None
    left, right = node.args
    x, other = (right, left) if left in graph.weights else (left, right)
    if not hasattr(x, "meta") or x in graph.weights or not _is_layer(x):
        return None
    axis, shape = _channel_axis(x), shape_of(x)
    channels = shape[axis]
    if other in graph.weights:
        values = graph.weights[other].double()
        aligned = [1] * (len(shape) - values.dim()) + list(values.shape)
        fits = len(aligned) == len(shape) and all(
            e == 1 or (i == axis and e == channels) for i, e in enumerate(aligned)
        )
        if not fits:
            return None
        values = values.reshape(-1).expand(channels)
    elif isinstance(other, int | float):
        values = torch.full((channels,), float(other), dtype=torch.float64)
    else:
        return None
    if node.meta["val"].dtype != x.meta["val"].dtype:
        return None
    product = node.target is aten.mul.Tensor
    one, zero = torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    return _Affine(x, values if product else one, zero if product else values, node)


def _is_layer(node: fx.Node) -> bool:
    import torch

    aten = torch.ops.aten
    return node.target in (aten.convolution.default, aten.linear.default)


def _channel_axis(layer: fx.Node) -> int:
    """The dimension of a layer's result that has its channels."""
    import torch

    return len(shape_of(layer)) - 1 if layer.target is torch.ops.aten.linear.default else 1


def _absorb(graph: TorchGraph, affine: _Affine) -> bool:
    """Multiply the weights of the layer that gives ``affine.x``, and change its bias. Returns whether that is done."""
    import torch

    layer = affine.x
    batch_norm = len(shape_of(layer)) if hasattr(layer, "meta") else 0
    if layer.op != "call_function" or not _is_layer(layer) or len(layer.users) != 1:
        return False
    axis = _channel_axis(layer)
    if batch_norm and affine.result.target is operator.getitem and axis != 1:
        return False
    kernel, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    if kernel not in graph.weights or (bias is not None and bias not in graph.weights):
        return False
    weight = graph.weights[kernel]
    scale, shift = affine.scale, affine.shift
    transposed = layer.target is torch.ops.aten.convolution.default and bool(layer.args[6])
    if transposed:
        groups = int(layer.args[8])
        grouped = weight.double().reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        factor = scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (grouped * factor).reshape(weight.shape)
    else:
        scaled = weight.double() * scale.reshape(-1, *[1] * (weight.dim() - 1))
    moved = shift if bias is None else graph.weights[bias].double() * scale + shift
    made = graph.add_weight(f"{layer.name}_weight", scaled.to(weight.dtype))
    term = graph.add_weight(f"{layer.name}_bias", moved.to(weight.dtype))
    layer.args = (layer.args[0], made, term, *layer.args[3:])
    return True
