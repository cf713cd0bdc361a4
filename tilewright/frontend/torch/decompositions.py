"""Which of PyTorch's operators are decomposed before a program is imported, and how.

PyTorch's own table makes core operators of all others. Three kinds of operators differ here:

- *kept*: an operator that a converter serves better than its parts;
- *ours*: PyTorch's decomposition is slower than ours, or ours gives what the same model gives as an ONNX file;
- *added*: PyTorch has a decomposition that is not in its table.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.frontend.torch.graph import TorchGraph
from tilewright.frontend.torch.recurrent import RECURRENT, keep_recurrent
from tilewright.frontend.torch.training import refuse_state

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

__all__ = ["decompose"]

_KEPT = """
    linear.default matmul.default hardswish.default hardsigmoid.default silu.default roll.default pad.default
    unbind.int split.Tensor split_with_sizes.default
    max_pool1d.default max_pool2d.default max_pool3d.default _safe_softmax.default
    upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec
    _upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec
    upsample_linear1d.vec upsample_bilinear2d.vec upsample_trilinear3d.vec upsample_bicubic2d.vec
    _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa.vec
    upsample_linear1d.default upsample_bilinear2d.default upsample_trilinear3d.default
"""
_ADDED = "grid_sampler_2d"


def decompose(program: ExportedProgram) -> TorchGraph:
    """The graph of a program, in operators that converters serve.

    Raises:
        UnsupportedOperatorError: the program changes a buffer, or holds an object that is no tensor.
        ShapeError: an input is no tensor of a fixed shape.
    """
    import torch

    table = torch.export.default_decompositions()
    aten = torch.ops.aten
    for name in _KEPT.split():
        packet, _, overload = name.partition(".")
        table.pop(getattr(getattr(aten, packet), overload), None)
    table.update(torch._decomp.get_decompositions([getattr(aten, name) for name in _ADDED.split()]))
    table[aten.scaled_dot_product_attention.default] = _attention
    table[aten._prelu_kernel.default] = _prelu
    table[aten.native_group_norm.default] = _group_norm
    table[aten._native_batch_norm_legit.no_stats] = _norm_of_batch
    table[aten.hypot.default] = lambda x, y: (x * x + y * y).sqrt()
    table[aten._trilinear.default] = _trilinear
    table[aten._cdist_forward.default] = _distances
    for name in RECURRENT:
        packet, _, overload = name.partition(".")
        table[getattr(getattr(aten, packet), overload)] = keep_recurrent(name)
    table[aten.bucketize.Tensor] = _count_below
    table[aten.searchsorted.Tensor] = _search
    with warnings.catch_warnings(), torch.backends.mkldnn.flags(enabled=False):
        warnings.simplefilter("ignore")  # PyTorch deprecates functions that it calls itself
        # Without oneDNN, an LSTM becomes products and gates, instead of an operator of that library.
        decomposed = program.run_decompositions(table)
    refuse_state(decomposed)
    return TorchGraph.of(decomposed)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """attention(q, k, v) --> softmax(q k^T * scale + mask) v. The parameters are those of PyTorch's operator."""
    import torch

    if enable_gqa:
        repeats = query.size(-3) // key.size(-3)
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    factor = 1.0 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = torch.matmul(query, key.transpose(-2, -1)) * factor
    if is_causal:
        allowed = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool).tril()
        # Each row may see the first key, so no row is masked altogether.
        return torch.matmul(torch.softmax(scores + _bias(allowed, query.dtype), -1), value)
    if attn_mask is None:
        return torch.matmul(torch.softmax(scores, -1), value)
    bias = _bias(attn_mask, query.dtype) if attn_mask.dtype == torch.bool else attn_mask
    return torch.matmul(torch.ops.aten._safe_softmax(scores + bias, -1), value)


def _bias(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask as numbers to add: 0 where it allows, minus infinity elsewhere."""
    import torch

    zero, low = (torch.full((), number, dtype=dtype) for number in (0.0, -math.inf))
    return torch.where(allowed, zero, low)


def _prelu(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """prelu(x) --> max(x, 0) + weight * min(x, 0), which is fused with a convolution."""
    import torch

    return torch.clamp(x, min=0.0) + weight * torch.clamp(x, max=0.0)


def _group_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    batch: int,
    channels: int,
    pixels: int,
    groups: int,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A norm of groups of channels --> a norm of rows, which has a template; a row for each group."""
    rows = x.reshape(batch * groups, -1)
    result = _scale_channels(_norm_of_rows(rows, epsilon).reshape(x.shape), weight, bias)
    return result, x.new_zeros(batch, groups), x.new_zeros(batch, groups)


def _norm_of_batch(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch norm by the statistics of its input --> a norm of rows; a row for each channel.

    PyTorch makes such norms of instance norms, too.
    """
    turned = x.transpose(0, 1)
    rows = turned.reshape(x.size(1), -1)
    result = _norm_of_rows(rows, epsilon).reshape(turned.shape).transpose(0, 1)
    return _scale_channels(result, weight, bias), x.new_zeros(x.size(1)), x.new_zeros(x.size(1))


def _norm_of_rows(rows: torch.Tensor, epsilon: float) -> torch.Tensor:
    import torch

    columns = rows.size(1)
    ones, zeros = torch.ones(columns, dtype=rows.dtype), torch.zeros(columns, dtype=rows.dtype)
    return torch.ops.aten.native_layer_norm(rows, [columns], ones, zeros, epsilon)[0]


def _scale_channels(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    column = (-1, *[1] * (x.dim() - 2))
    if weight is not None:
        x = x * weight.reshape(column)
    return x if bias is None else x + bias.reshape(column)


def _trilinear(
    first: torch.Tensor,
    second: torch.Tensor,
    third: torch.Tensor,
    first_new: Sequence[int],
    second_new: Sequence[int],
    third_new: Sequence[int],
    summed: Sequence[int],
    unroll: int = 1,
) -> torch.Tensor:
    """The sum of products of three tensors, each with new dimensions: what a bilinear layer is made of."""
    result = None
    for tensor, new in ((first, first_new), (second, second_new), (third, third_new)):
        for dim in sorted(new):
            tensor = tensor.unsqueeze(dim)
        result = tensor if result is None else result * tensor
    assert result is not None
    return result.sum(list(summed))


def _distances(first: torch.Tensor, second: torch.Tensor, power: float, mode: int | None) -> torch.Tensor:
    """The distance of each row of one tensor from each of the other."""
    import torch

    return torch.linalg.vector_norm(first.unsqueeze(-2) - second.unsqueeze(-3), power, -1)


def _count_below(
    x: torch.Tensor, bounds: torch.Tensor, *, out_int32: bool = False, right: bool = False
) -> torch.Tensor:
    """How many of some sorted numbers are below each element, or not above it."""
    import torch

    below = bounds <= x.unsqueeze(-1) if right else bounds < x.unsqueeze(-1)
    return below.sum(-1).to(torch.int32 if out_int32 else torch.int64)


def _search(
    bounds: torch.Tensor,
    x: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same for rows of sorted numbers."""
    if sorter is not None:
        bounds = bounds.gather(-1, sorter)
    if bounds.dim() > 1:
        bounds = bounds.unsqueeze(-2)
    return _count_below(x, bounds, out_int32=out_int32, right=right or side == "right")
