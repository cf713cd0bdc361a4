"""Which operators of a training step are decomposed before they are imported, and how.

The graphs of a step keep PyTorch's coarse operators, since what PyTorch runs itself is fastest in these. A part that is
compiled is decomposed here, into what fuses well: sums over the batch and the pixels, and element-wise operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from tilewright.frontend.torch.attention import attention_decompositions
from tilewright.frontend.torch.own_operators import call_operator

if TYPE_CHECKING:
    import torch
    from torch._ops import OpOverload

__all__ = ["training_decompositions"]

#: Operators of PyTorch's table that converters serve better than their parts.
_KEPT = """
    hardswish.default hardsigmoid.default silu.default gelu.default unbind.int split.Tensor split_with_sizes.default
    addmm.default native_layer_norm.default threshold_backward.default hardswish_backward.default
    hardsigmoid_backward.default hardtanh_backward.default leaky_relu_backward.default elu_backward.default
    _safe_softmax.default select_backward.default slice_backward.default
"""
#: Operators whose decomposition PyTorch has, but not in its table.
_ADDED = """
    silu_backward sigmoid_backward tanh_backward _softmax_backward_data _log_softmax_backward_data
    stack t transpose.int addcmul addcdiv native_group_norm native_group_norm_backward
"""


@cache
def training_decompositions() -> Mapping[OpOverload, Callable[..., object]]:
    """The table of decompositions for the parts of a training step, made once: PyTorch collects its own slowly."""
    import torch

    aten = torch.ops.aten
    table = dict(torch._decomp.core_aten_decompositions())
    for name in _KEPT.split():
        packet, _, overload = name.partition(".")
        table.pop(getattr(getattr(aten, packet), overload), None)
    table.update(torch._decomp.get_decompositions([_operator(name) for name in _ADDED.split()]))
    table[aten._native_batch_norm_legit_functional.default] = _batch_norm
    table[aten._native_batch_norm_legit_no_training.default] = _frozen_batch_norm
    table[aten.native_batch_norm_backward.default] = _batch_norm_backward
    table[aten.native_layer_norm_backward.default] = _layer_norm_backward
    table[aten.gelu.default] = _gelu
    table[aten.gelu_backward.default] = _gelu_backward
    table[aten.native_dropout_backward.default] = _dropout_backward
    table[aten.silu_backward.default] = _for_sequences(table[aten.silu_backward.default])
    table[aten._adaptive_avg_pool2d_backward.default] = _share_backward
    table[aten.avg_pool2d_backward.default] = _share_backward
    table[aten.convolution_backward.default] = _transposed_convolution_backward
    table[aten.view.default] = _view
    table.update(attention_decompositions())
    return table


def _view(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A view of a tensor in its own order. A decomposition may lay out a result otherwise than PyTorch does."""
    return NotImplemented if x.is_contiguous() else x.contiguous().view(shape)


def _for_sequences(decompose: Callable[..., object]) -> Callable[..., object]:
    """A decomposition that leaves images alone, whose gradients have a converter."""

    def decomposed(gradient: torch.Tensor, x: torch.Tensor) -> object:
        return NotImplemented if x.dim() == 4 else decompose(gradient, x)

    return decomposed


def _operator(name: str) -> object:
    import torch

    packet, _, overload = name.partition(".")
    found = getattr(torch.ops.aten, packet)
    return getattr(found, overload) if overload else found


def _column(vector: torch.Tensor, rank: int) -> torch.Tensor:
    """A number for each channel, so that it broadcasts over an image."""
    return vector.reshape(1, -1, *[1] * (rank - 2))


def _others(x: torch.Tensor) -> list[int]:
    """All dimensions but that of the channels."""
    return [dim for dim in range(x.dim()) if dim != 1]


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of each channel, and its variance, divided by the count. Of images both are made in one pass."""
    if x.dim() == 4:
        mean, variance = _statistics_operator(x, None, None).unbind(0)
        return mean, variance
    count = x.numel() // x.size(1)
    mean = x.sum(_others(x)) / count
    centred = x - _column(mean, x.dim())
    return mean, (centred * centred).sum(_others(x)) / count


def _products(gradient: torch.Tensor, x: torch.Tensor, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of a gradient over each channel, and the sum of its products with the centred channel."""
    if x.dim() == 4:
        first, second = _statistics_operator(x, gradient, mean).unbind(0)
        return first, second
    return gradient.sum(_others(x)), (gradient * (x - _column(mean, x.dim()))).sum(_others(x))


def _statistics_operator(x: torch.Tensor, gradient: torch.Tensor | None, mean: torch.Tensor | None) -> torch.Tensor:
    """A call of the operator that computes two numbers for each channel of images."""
    return call_operator(
        "channel_statistics",
        "(Tensor x, Tensor? gradient, Tensor? mean) -> Tensor",
        lambda x, gradient, mean: x.new_empty((2, x.size(1))),
        x,
        gradient,
        mean,
    )


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """A batch norm and what it keeps: the result, mean, inverse deviation, and both running statistics.

    The result is x * scale + shift, with one scale and one shift for each channel.
    """
    if training:
        count = x.numel() // x.size(1)
        mean, variance = _moments(x)
        new_mean = running_mean * (1 - momentum) + mean * momentum
        new_var = running_var * (1 - momentum) + variance * (momentum * count / max(1, count - 1))
        saved, deviation = mean, (variance + eps).rsqrt()
        inverse = deviation
    else:
        mean, inverse = running_mean, (running_var + eps).rsqrt()
        new_mean, new_var = running_mean.clone(), running_var.clone()
        saved, deviation = x.new_zeros((0,)), x.new_zeros((0,))
    scale = inverse if weight is None else inverse * weight
    result = (x - _column(mean, x.dim())) * _column(scale, x.dim())
    if bias is not None:
        result = result + _column(bias, x.dim())
    return result, saved, deviation, new_mean, new_var


def _frozen_batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """A batch norm by its running statistics, and two empty vectors."""
    return _batch_norm(x, weight, bias, running_mean, running_var, False, momentum, eps)[:3]


def _batch_norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, *others: Any
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of data, scale and shift: two sums over the batch and the pixels, then one pass.

    dx = a * dy + b * (x - mean) + c, with three numbers for each channel.

    Args:
        gradient: of the result.
        x: the data.
        weight: the scale.
        others: running mean and variance, saved mean and inverse deviation, whether it trains, epsilon, output mask.
    """
    running_mean, running_var, saved_mean, saved_deviation, training, eps, output_mask = others
    if training:
        mean, inverse = saved_mean, saved_deviation
    else:
        mean, inverse = running_mean, (running_var + eps).rsqrt()
    count = x.numel() // x.size(1)
    centred = x - _column(mean, x.dim())
    shift, products = _products(gradient, x, mean)
    scale = products * inverse
    factor = inverse if weight is None else inverse * weight
    dx = gradient * _column(factor, x.dim())
    if training:
        slope = factor * scale * inverse / -count
        offset = factor * shift / -count
        dx = dx + centred * _column(slope, x.dim()) + _column(offset, x.dim())
    return (
        dx if output_mask[0] else None,
        scale if output_mask[1] else None,
        shift if output_mask[2] else None,
    )


def _layer_norm_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    extents: Sequence[int],
    mean: torch.Tensor,
    inverse: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of data, scale and shift of a norm of rows."""
    columns = math.prod(extents)
    dy, rows = gradient.reshape(-1, columns), x.reshape(-1, columns)
    mean, inverse = mean.reshape(-1), inverse.reshape(-1)
    dx = sums = None
    if output_mask[0]:
        scale = x.new_ones((columns,)) if weight is None else weight.reshape(-1)
        schema = "(Tensor gradient, Tensor x, Tensor mean, Tensor inverse, Tensor scale) -> Tensor"
        dx = call_operator("layer_norm_gradient", schema, _like_first, dy, rows, mean, inverse, scale).view(x.shape)
    if output_mask[1] or output_mask[2]:
        schema = "(Tensor gradient, Tensor x, Tensor mean, Tensor inverse) -> Tensor"
        sums = call_operator("norm_sums", schema, _two_rows, dy, rows, mean, inverse).unbind(0)
    first, second = (None, None) if sums is None else (each.view(extents) for each in sums)
    return dx, first if output_mask[1] else None, second if output_mask[2] else None


def _like_first(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    return first.new_empty(first.shape)


def _two_rows(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    return first.new_empty((2, first.size(1)))


def _gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """A GELU with as small an absolute error as PyTorch's. That of images has a converter."""
    if approximate != "none" or x.dim() == 4:
        return NotImplemented
    return call_operator("gelu_in_training", "(Tensor x) -> Tensor", _like_first, x)


def _gelu_backward(gradient: torch.Tensor, x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """The gradient of a GELU. Its slope needs one exponential, which both of its terms share."""
    import torch

    if approximate != "none":
        (rule,) = torch._decomp.get_decompositions([torch.ops.aten.gelu_backward.default]).values()
        return cast("torch.Tensor", rule(gradient, x, approximate=approximate))
    if x.dim() == 4:
        return NotImplemented  # images have a converter
    return gradient * call_operator("gelu_slope", "(Tensor x) -> Tensor", _like_first, x)


def _dropout_backward(gradient: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    return gradient * mask * scale


def _share_backward(gradient: torch.Tensor, x: torch.Tensor, *others: Any) -> torch.Tensor:
    """The gradient of means over windows that lie side by side and fill the image: each pixel gets its share."""
    rows, columns = (x.size(dim) // gradient.size(dim) for dim in (-2, -1))
    if gradient.size(-2) == gradient.size(-1) == 1:
        return (gradient * (1.0 / (rows * columns))).expand(x.shape)
    return _repeat(gradient, rows, columns) * (1.0 / (rows * columns))


def _repeat(image: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The image with each pixel ``rows`` times in its column and ``columns`` times in its row."""
    *outer, height, width = image.shape
    spread = image.reshape(*outer, height, 1, width, 1).expand(*outer, height, rows, width, columns)
    return spread.reshape(*outer, height * rows, width * columns)


def _transposed_convolution_backward(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias_sizes: Sequence[int] | None, *numbers: Any
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of a transposed convolution, by those of the convolution of which it is the gradient.

    Args:
        gradient: of the result.
        x: the data.
        weight: of the shape ``(I, O/groups, kh, kw)``.
        bias_sizes: the shape of the bias.
        numbers: stride, padding, dilation, whether it is transposed, output padding, groups, output mask.
    """
    stride, padding, dilation, transposed, _, groups, mask = numbers
    if not transposed:
        return NotImplemented  # type: ignore[no-any-return]  # as PyTorch asks of what decomposes nothing
    aten = _operators()
    plain = (stride, padding, dilation, False, [0, 0], groups)
    return (
        aten.convolution(gradient, weight, None, *plain) if mask[0] else None,
        aten.convolution_backward(x, gradient, weight, None, *plain, [False, True, False])[1] if mask[1] else None,
        gradient.sum(_others(gradient)) if mask[2] else None,
    )


def _operators() -> Any:
    """PyTorch's own operators."""
    import torch

    return torch.ops.aten
