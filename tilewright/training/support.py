"""Which nodes of a step's graph can be compiled: the table of operators, and what their tensors must be."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import fx

__all__ = ["explain", "is_heavy", "is_supported", "is_view"]

#: Operators with so much arithmetic that a part with one of them is worth compiling.
_HEAVY = """
    convolution.default convolution_backward.default addmm.default mm.default bmm.default baddbmm.default
    _scaled_dot_product_flash_attention_for_cpu.default _scaled_dot_product_flash_attention_for_cpu_backward.default
"""
#: Operators that read and write each element a few times.
_LIGHT = """
    _native_batch_norm_legit_functional.default _native_batch_norm_legit_no_training.default
    native_batch_norm_backward.default native_layer_norm.default native_layer_norm_backward.default
    native_group_norm.default native_group_norm_backward.default
    relu.default threshold_backward.default hardswish.default hardswish_backward.default
    hardsigmoid.default hardsigmoid_backward.default silu.default silu_backward.default
    gelu.default gelu_backward.default sigmoid.default sigmoid_backward.default tanh.default tanh_backward.default
    leaky_relu.default leaky_relu_backward.default elu.default elu_backward.default
    hardtanh.default hardtanh_backward.default
    add.Tensor sub.Tensor mul.Tensor div.Tensor add.Scalar sub.Scalar mul.Scalar div.Scalar neg.default
    exp.default log.default sqrt.default rsqrt.default abs.default pow.Tensor_Scalar maximum.default minimum.default
    clamp.default clamp_min.default clamp_max.default where.self logical_and.default
    eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar
    eq.Tensor ne.Tensor lt.Tensor le.Tensor gt.Tensor ge.Tensor
    full.default scalar_tensor.default zeros.default full_like.default zeros_like.default
    mean.dim sum.dim_IntList
    _softmax.default _safe_softmax.default _softmax_backward_data.default
    _log_softmax.default _log_softmax_backward_data.default
    native_dropout_backward.default
    max_pool2d_with_indices.default max_pool2d_with_indices_backward.default
    avg_pool2d.default avg_pool2d_backward.default
    _adaptive_avg_pool2d.default _adaptive_avg_pool2d_backward.default
"""
#: Operators that move elements, or nothing.
_VIEWS = """
    view.default _unsafe_view.default reshape.default t.default transpose.int permute.default expand.default
    unsqueeze.default squeeze.dim squeeze.dims clone.default alias.default detach.default
    cat.default stack.default select.int slice.Tensor unbind.int split.Tensor split_with_sizes.default
    select_backward.default slice_backward.default constant_pad_nd.default
"""
#: The dtypes of tensors that parts read and write.
_DTYPES = ("float32", "bool")
#: The places of largest pixels are of the dtype int64.
_PLACES = "max_pool2d_with_indices.default max_pool2d_with_indices_backward.default"


def is_supported(node: fx.Node) -> bool:
    """Whether the operator of a node can be compiled, for the shapes and types of its tensors."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        source = node.args[0]
        return hasattr(source, "meta") and is_supported(source)
    name = _name(node)
    if name not in _TABLE or not _CONDITIONS.get(name, _always)(node):
        return False
    dtypes = (*_DTYPES, "int64") if name in _PLACES.split() else _DTYPES
    values = [*_tensors(node), *(value for source in node.all_input_nodes for value in _tensors(source))]
    if not values or not all(_fits(value, dtypes) for value in values):
        return False
    return not any(0 in value.shape for value in (values if is_heavy(node) else values[:1]))


def is_heavy(node: fx.Node) -> bool:
    """Whether a node has so much arithmetic that its part is worth compiling."""
    return _TABLE.get(_name(node)) == "heavy"


def explain(module: fx.GraphModule) -> str:
    """Why convolutions, matrix products and attentions of a graph cannot be compiled; empty: all can be.

    Args:
        module: the graph of a step.
    """
    heavy = [node for node in module.graph.nodes if is_heavy(node)]
    if not heavy:
        return "it has no convolution, product or attention that could be compiled"
    reasons = sorted({f"{_name(node)} {_refuse(node)}" for node in heavy if not is_supported(node)})
    return ", ".join(reasons)


def _refuse(node: fx.Node) -> str:
    """Why a heavy node is not supported, in words that follow its name."""
    values = [*_tensors(node), *(value for source in node.all_input_nodes for value in _tensors(source))]
    shapes = [value.shape for value in values if hasattr(value, "shape")]
    if any(not isinstance(extent, int) for shape in shapes for extent in shape):
        return "has a size that is not fixed"
    if any(0 in shape for shape in shapes):
        return "has a batch or an image without elements"
    dtypes = {str(value.dtype).removeprefix("torch.") for value in values if hasattr(value, "dtype")}
    others = sorted(dtypes.difference(_DTYPES))
    return f"computes in {' and '.join(others)}" if others else "has a form that is not compiled"


def is_view(node: fx.Node) -> bool:
    """Whether a node moves elements, or does nothing."""
    return node.target is operator.getitem or _TABLE.get(_name(node)) == "view"


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.") if node.op == "call_function" else ""


def _always(node: fx.Node) -> bool:
    return True


def _shape(node: object) -> tuple[int, ...]:
    """The shape of the first result of a node."""
    return tuple(_tensors(node)[0].shape)


def _is_image(node: fx.Node) -> bool:
    """Whether the first operand is a batch of images."""
    return len(_shape(node.args[0])) == 4


def _is_convolution(node: fx.Node) -> bool:
    """Whether a convolution is of images; a transposed one is computed as a gradient of data is."""
    stride, _, dilation, transposed = node.args[3:7]
    return _is_image(node) and not (transposed and _skips(stride, dilation))


def _is_gradient(node: fx.Node) -> bool:
    """Whether all that is asked for of a convolution's gradients can be computed."""
    stride, _, dilation, transposed = node.args[4:8]
    return _is_image(node) and (bool(transposed) or not node.args[10][0] or not _skips(stride, dilation))


def _skips(stride: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether windows with gaps are moved by several pixels."""
    return max(stride) > 1 and max(dilation) > 1


def _is_max_pool(node: fx.Node) -> bool:
    """Whether windows have no gaps."""
    place = 4 if _name(node) == "max_pool2d_with_indices.default" else 5
    return _is_image(node) and set(node.args[place] if len(node.args) > place else [1]) == {1}


def _shares_equally(node: fx.Node) -> bool:
    """Whether the windows of means lie side by side and fill the image."""
    if "backward" in _name(node):
        small, large = _shape(node.args[0]), _shape(node.args[1])
    else:
        small, large = _shape(node), _shape(node.args[0])
    return _divides(small, large)


def _windows_lie_side_by_side(node: fx.Node) -> bool:
    """Whether the windows of means lie side by side, without padding, and fill the image."""
    small, large = _shape(node.args[0]), _shape(node.args[1])
    sizes = [int(n) for n in node.args[2]]
    plain = not any(node.args[4]) and node.args[7] is None
    return (
        plain
        and _divides(small, large)
        and all(extent == count * size for extent, count, size in zip(large[-2:], small[-2:], sizes, strict=True))
    )


def _divides(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether the pixels of an image are a whole number of times those of another."""
    pairs = zip(small[-2:], large[-2:], strict=True)
    return len(small) == len(large) == 4 and all(extent % count == 0 for count, extent in pairs)


def _steps_by_one(node: fx.Node) -> bool:
    """Whether a slice leaves nothing out."""
    return bool(node.args[5] == 1)


def _is_rows(node: fx.Node) -> bool:
    """Whether an operator on rows is computed along the last dimension."""
    return node.args[1] in (-1, len(_shape(node.args[0])) - 1)


_CONDITIONS: Mapping[str, Callable[[fx.Node], bool]] = {
    "convolution.default": _is_convolution,
    "convolution_backward.default": _is_gradient,
    "max_pool2d_with_indices.default": _is_max_pool,
    "max_pool2d_with_indices_backward.default": _is_max_pool,
    "_adaptive_avg_pool2d.default": _shares_equally,
    "_adaptive_avg_pool2d_backward.default": _shares_equally,
    "avg_pool2d.default": _is_image,
    "avg_pool2d_backward.default": _windows_lie_side_by_side,
    "slice_backward.default": _steps_by_one,
    "_log_softmax.default": _is_rows,
}


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    """The tensors that stand in for the results of a node."""
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if each is not None]


def _fits(value: torch.Tensor, dtypes: Sequence[str]) -> bool:
    shape = getattr(value, "shape", None)
    if shape is None or not all(isinstance(extent, int) for extent in shape):  # a size that is not fixed
        return False
    dtype = str(value.dtype).removeprefix("torch.")
    return dtype in dtypes and value.device.type == "cpu"


_TABLE: Mapping[str, str] = {
    **dict.fromkeys(_HEAVY.split(), "heavy"),
    **dict.fromkeys(_LIGHT.split(), "light"),
    **dict.fromkeys(_VIEWS.split(), "view"),
}
