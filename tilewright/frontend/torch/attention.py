"""Attention in training: its result with what PyTorch saves of it, and its gradient.

PyTorch saves the logarithm of the sum of each row of exponentials. So the gradient computes the probabilities without
another sum along rows. Both are one operator each, unless a mask is added to the scores. Then they are decomposed into
products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tilewright.frontend.torch.own_operators import call_operator

if TYPE_CHECKING:
    import torch
    from torch._ops import OpOverload

__all__ = ["ATTENTION", "ATTENTION_GRADIENT", "attention_decompositions"]


def attention_decompositions() -> dict[OpOverload, Callable[..., object]]:
    """The decompositions of PyTorch's operators for attention on CPUs."""
    import torch

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
    }


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The result ``(n, heads, queries, depth)``, and the logarithms of the sums of rows ``(n, heads, queries)``."""
    assert dropout_p == 0.0, "PyTorch takes another operator for dropout"
    if _is_one_operator(query, key, is_causal, attn_mask):
        factor = 1.0 / math.sqrt(query.size(-1)) if scale is None else scale
        result, logarithms = call_operator(ATTENTION, _SCHEMA, _results, query, key, value, is_causal, factor)
        return _lay_tokens_first(result), logarithms
    scores = _scores(query, key, is_causal, attn_mask, scale)
    rows = scores.view(-1, scores.size(-1))
    logarithms = call_operator("log_sum_exp", "(Tensor x) -> Tensor", lambda x: x.new_empty((x.size(0), 1)), rows)
    logarithms = logarithms.view(scores.shape[:-1])
    probabilities = (scores - logarithms.unsqueeze(-1)).exp()
    result = _unfold(_fold(probabilities).bmm(_fold(value)), query.shape)
    return _lay_tokens_first(result), logarithms


#: The operator that computes attention and the logarithms of the sums: its name, and what it takes and gives.
ATTENTION = "attention_with_sums"
_SCHEMA = "(Tensor query, Tensor key, Tensor value, bool causal, float scale) -> (Tensor, Tensor)"
#: The operator that computes the gradients of queries, keys and values.
ATTENTION_GRADIENT = "attention_gradient"
_GRADIENT_SCHEMA = (
    "(Tensor gradient, Tensor query, Tensor key, Tensor value, Tensor out, Tensor sums, bool causal, float scale) -> "
    "(Tensor, Tensor, Tensor)"
)
#: Fewest queries and keys of an attention that is one operator.
_FEWEST = 4


def _is_one_operator(query: torch.Tensor, key: torch.Tensor, is_causal: bool, mask: torch.Tensor | None) -> bool:
    """Whether an attention is one operator, and so is its gradient."""
    queries, keys = query.size(2), key.size(2)
    return mask is None and min(queries, keys) >= _FEWEST and (queries == keys or not is_causal)


def _results(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any) -> tuple[torch.Tensor, ...]:
    """Tensors like the results of :data:`ATTENTION`."""
    return query.new_empty((*query.shape[:3], value.size(3))), query.new_empty(query.shape[:3])


def _gradients(gradient: torch.Tensor, *others: Any) -> tuple[torch.Tensor, ...]:
    """Tensors like the results of :data:`ATTENTION_GRADIENT`."""
    return tuple(tensor.new_empty(tensor.shape) for tensor in others[:3])


def _attention_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *others: Any,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of query, key and value.

    dS = P * (dO V^T - rows(dO * O)), where P = exp(S - logsumexp).

    Args:
        gradient: of the result, dO.
        query: as it was.
        key: as it was.
        value: as it was.
        others: the result O, the logarithms of the sums of rows, the rate of dropout, and whether it is causal.
        attn_mask: what was added to the scores S.
        scale: of the scores.
    """
    out, logsumexp, dropout_p, is_causal = others
    assert dropout_p == 0.0, "PyTorch takes another operator for dropout"
    factor = 1.0 / math.sqrt(query.size(-1)) if scale is None else scale
    if _is_one_operator(query, key, is_causal, attn_mask):
        tensors = (gradient, query, key, value, out, logsumexp)
        dq, dk, dv = call_operator(ATTENTION_GRADIENT, _GRADIENT_SCHEMA, _gradients, *tensors, is_causal, factor)
        return _lay_tokens_first(dq), _lay_tokens_first(dk), _lay_tokens_first(dv)
    scores = _scores(query, key, is_causal, attn_mask, scale)
    probabilities = (scores - logsumexp.unsqueeze(-1)).exp()
    # Heads lie side by side for each token, so that is the order in which these sums read.
    rows = (gradient.transpose(1, 2) * out.transpose(1, 2)).sum(-1).transpose(1, 2).unsqueeze(-1)
    inner = _unfold(_fold(gradient).bmm(_fold(value).transpose(1, 2)), scores.shape)
    slopes = _fold(probabilities * (inner - rows) * factor)
    return (
        _lay_tokens_first(_unfold(slopes.bmm(_fold(key)), query.shape)),
        _lay_tokens_first(_unfold(slopes.transpose(1, 2).bmm(_fold(query)), key.shape)),
        _lay_tokens_first(_unfold(_fold(probabilities).transpose(1, 2).bmm(_fold(gradient)), value.shape)),
    )


def _scores(
    query: torch.Tensor, key: torch.Tensor, is_causal: bool, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """The scores ``(n, heads, queries, keys)``."""
    factor = 1.0 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = _unfold(_fold(query).bmm(_fold(key).transpose(1, 2)), (*query.shape[:3], key.size(2))) * factor
    if is_causal:
        ones = query.new_ones((query.size(2), key.size(2)))
        mask = (1.0 - ones.tril()) * _FORBIDDEN
    return scores if mask is None else scores + mask


#: What is added to a score that is not allowed: its exponential is 0. Minus infinity times 0 is no number.
_FORBIDDEN = -1e30


def _fold(tensor: torch.Tensor) -> torch.Tensor:
    """``(n, heads, tokens, depth)`` --> ``(n * heads, tokens, depth)``."""
    return tensor.reshape(-1, *tensor.shape[2:])


def _unfold(tensor: torch.Tensor, shape: tuple[int, ...] | torch.Size) -> torch.Tensor:
    """``(n * heads, tokens, depth)`` --> ``(n, heads, tokens, depth)``, with the first two extents of a shape."""
    return tensor.reshape(*shape[:2], *tensor.shape[1:])


def _lay_tokens_first(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with the strides that PyTorch gives it: heads lie side by side for each token."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)
