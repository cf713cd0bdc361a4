"""The function of a product of tokens as plain loops."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.elementwise.float32 import number
from tilewright.ops.function import KEPT
from tilewright.ops.mark import Mark
from tilewright.ops.statements import load, make_counter, make_loop, make_sequence, store
from tilewright.ops.token_product.form import KIND, TokenProduct
from tilewright.ops.written import declare, make_written_function

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = ["token_product"]


@lru_cache(KEPT)
def token_product(form: TokenProduct) -> PrimFunc:
    """The product ``left^T right``, and the sums of the left matrix's columns if the form has them.

    Gives a PrimFunc with the parameters of ``form.shapes``, all float32.
    """
    buffers = {name: declare(name, shape) for name, shape in form.shapes.items()}
    left, right, product = (buffers[name] for name in ("left", "right", "product"))
    i, j, token = (make_counter(name) for name in ("i", "j", "token"))
    term = load(left, [token, i]) * load(right, [token, j])
    add = store(product, load(product, [i, j]) + term, [i, j])
    element = make_sequence([store(product, number(0.0), [i, j]), make_loop(token, form.tokens, add)])
    steps = [make_loop(i, form.left, make_loop(j, form.right, element))]
    if form.sums:
        sums, column, row = buffers["sums"], make_counter("column"), make_counter("row")
        add = store(sums, load(sums, [column]) + load(left, [row, column]), [column])
        element = make_sequence([store(sums, number(0.0), [column]), make_loop(row, form.tokens, add)])
        steps.append(make_loop(column, form.left, element))
    results, mark = len(form.results), Mark(KIND, form.detail)
    return make_written_function(list(buffers.values()), results, make_sequence(steps), [], mark)
