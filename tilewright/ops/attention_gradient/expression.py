"""The function of an attention's gradient as plain loops."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.attention_gradient.form import KIND, AttentionGradient
from tilewright.ops.attention_gradient.nest import PLAIN
from tilewright.ops.attention_gradient.program import write_gradient
from tilewright.ops.function import KEPT
from tilewright.ops.mark import Mark
from tilewright.ops.written import declare, make_written_function

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = ["attention_gradient"]


@lru_cache(KEPT)
def attention_gradient(form: AttentionGradient) -> PrimFunc:
    """The gradients of queries, keys and values: a PrimFunc with the parameters of ``form.shapes``, all float32.

    dV = P^T dO, dQ = scale dS K and dK = scale dS^T Q, where P = exp(scale Q K^T - L) are the probabilities,
    dS = P * (dO V^T - rows(dO * O)), O the result, dO its gradient, and L the logarithms of sums.
    """
    params = [declare(name, shape) for name, shape in form.shapes.items()]
    body, buffers = write_gradient(form, params, PLAIN)
    return make_written_function(params, len(form.results), body, buffers, Mark(KIND, form.detail))
