"""Which nodes of a step's graph can be compiled: the table of operators, and what their tensors must be."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import fx

__all__ = ["is_heavy", "is_supported", "is_view"]

#: Operators with so much arithmetic that a part with one of them is worth compiling.
_HEAVY = "convolution.default convolution_backward.default addmm.default mm.default bmm.default baddbmm.default"
#: Operators that read and write each element a few times.
_LIGHT = """
    _native_batch_norm_legit_functional.default native_batch_norm_backward.default
    relu.default threshold_backward.default hardswish.default hardswish_backward.default
    hardsigmoid.default hardsigmoid_backward.default silu.default silu_backward.default
    gelu.default gelu_backward.default sigmoid.default sigmoid_backward.default tanh.default tanh_backward.default
    add.Tensor sub.Tensor mul.Tensor div.Tensor add.Scalar sub.Scalar mul.Scalar div.Scalar neg.default
    exp.default sqrt.default rsqrt.default
    mean.dim sum.dim_IntList
    native_layer_norm.default native_layer_norm_backward.default
    _softmax.default _softmax_backward_data.default
"""
#: Operators that move elements, or nothing.
_VIEWS = """
    view.default _unsafe_view.default reshape.default t.default transpose.int permute.default expand.default
    unsqueeze.default squeeze.dim squeeze.dims clone.default alias.default detach.default
    cat.default stack.default select.int slice.Tensor unbind.int split.Tensor
"""
#: The dtypes of tensors that parts read and write.
_DTYPES = ("float32", "bool")


def is_supported(node: fx.Node) -> bool:
    """Whether a node can be part of what is compiled."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        source = node.args[0]
        return hasattr(source, "meta") and is_supported(source)
    if _name(node) not in _TABLE or _is_transposed(node):
        return False
    values = [*_tensors(node), *(value for source in node.all_input_nodes for value in _tensors(source))]
    return bool(values) and all(_fits(value) for value in values)


def is_heavy(node: fx.Node) -> bool:
    """Whether a node has so much arithmetic that its part is worth compiling."""
    return _TABLE.get(_name(node)) == "heavy"


def is_view(node: fx.Node) -> bool:
    """Whether a node moves elements, or does nothing."""
    return node.target is operator.getitem or _TABLE.get(_name(node)) == "view"


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.") if node.op == "call_function" else ""


def _is_transposed(node: fx.Node) -> bool:
    """Whether a node is a transposed convolution, or one that is not of images."""
    places = {"convolution.default": (0, 6), "convolution_backward.default": (1, 7)}
    if _name(node) not in places:
        return False
    data, transposed = places[_name(node)]
    source = node.args[data]
    return bool(node.args[transposed]) or len(_tensors(source)[0].shape) != 4


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    """The tensors that stand in for the results of a node."""
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if each is not None]


def _fits(value: torch.Tensor) -> bool:
    shape = getattr(value, "shape", None)
    if shape is None or not all(isinstance(extent, int) for extent in shape):  # a size that is not fixed
        return False
    dtype = str(value.dtype).removeprefix("torch.")
    return dtype in _DTYPES and value.device.type == "cpu"


_TABLE: Mapping[str, str] = {
    **dict.fromkeys(_HEAVY.split(), "heavy"),
    **dict.fromkeys(_LIGHT.split(), "light"),
    **dict.fromkeys(_VIEWS.split(), "view"),
}
