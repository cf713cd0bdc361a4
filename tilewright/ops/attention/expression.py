"""The function of an attention as plain loops."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.attention.elements import Nest
from tilewright.ops.attention.form import KIND, Attention
from tilewright.ops.attention.program import write_attention
from tilewright.ops.function import KEPT
from tilewright.ops.mark import Mark
from tilewright.ops.written import declare, make_written_function

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = ["attention"]


@lru_cache(KEPT)
def attention(form: Attention) -> PrimFunc:
    """softmax(scale * Q K^T + masks) V. Gives a PrimFunc whose parameters are those of ``form.shapes``, all float32."""
    params = [declare(name, shape) for name, shape in form.shapes.items()]
    body, buffers = write_attention(form, params, Nest.plain(form))
    return make_written_function(params, 1 + form.sums, body, buffers, Mark(KIND, form.detail))
