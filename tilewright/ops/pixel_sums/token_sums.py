"""Tensor expressions of sums over all tokens: gradients of the biases of dense layers, and of norms of layers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import KEPT, OPAQUE, make_function
from tilewright.ops.mark import Mark, take_mark
from tilewright.ops.pixel_sums.form import BLOCK, KIND, mark_roles
from tilewright.space.knob import divisors

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import IterVar, PrimFunc

__all__ = ["NORM_SUMS", "TOKEN_SUM", "is_token_sum", "norm_sums", "token_sum"]

#: The kind of the mark of :func:`norm_sums` as importers emit it.
NORM_SUMS = "norm_sums"
#: How the names of functions of :func:`token_sum` begin.
TOKEN_SUM = "token_sum"

#: The roles of the iterators of a sum of columns.
_COLUMNS = "col"
#: Most tokens that may be written out in the innermost loop.
_TOKENS = 4
#: Tokens of a chunk, at best. If no such chunks divide the tokens, none are written out, so that others do.
_LEAST_CHUNK, _MOST_CHUNK = 32, 256


@lru_cache(KEPT)
def token_sum(tokens: int, columns: int, x: int) -> PrimFunc:
    """The sum of each column, such as the gradient of a bias. Gives a PrimFunc (data, sums ``(columns,)``).

    Args:
        tokens: the rows of the data.
        columns: of the data.
        x: the columns in a vector, a divisor of them.
    """
    from tvm import te

    data = te.placeholder((tokens, columns), name="data")
    inner, (rn, ri, rj) = _tokens_axes(tokens)
    sums = te.compute(
        (1, columns // x, x),
        lambda c, o, v: te.sum(data[rn * inner + rj, (c + o) * x + v], axis=[rn, ri, rj]),
        name=BLOCK,
        attrs=mark_roles(_COLUMNS),
    )
    result = te.compute((columns,), lambda i: sums[0, i // x, i % x], name="unpack")
    return make_function([data, result], OPAQUE)


def is_token_sum(function: PrimFunc) -> bool:
    """Whether a function is one of :func:`token_sum`, with its mark."""
    return take_mark(function)[1] == Mark(KIND, _COLUMNS)


@lru_cache(KEPT)
def norm_sums(tokens: int, columns: int, x: int) -> PrimFunc:
    """The gradients of a layer norm's scale and shift. Gives a PrimFunc (gradient, data, mean, inverse, result).

    The result ``(2, columns)`` holds the sums over all tokens of ``gradient * (data - mean) * inverse``, and of the
    gradient.

    Args:
        tokens: the rows of gradient and data. The mean and the inverse deviation of each row are ``(tokens,)``.
        columns: of gradient and data.
        x: the columns in a vector, a divisor of them; 0: the plain function that importers emit.
    """
    from tvm import te, tirx

    dy, data = (te.placeholder((tokens, columns), name=name) for name in ("gradient", "data"))
    mean, inverse = (te.placeholder((tokens,), name=name) for name in ("mean", "inverse"))

    def term(t: Expr, row: Expr, column: Expr) -> Expr:
        first = dy[row, column]
        return tirx.if_then_else(t == 0, first * ((data[row, column] - mean[row]) * inverse[row]), first)

    if not x:
        k = te.reduce_axis((0, tokens), "n")
        result = te.compute(
            (2, columns),
            lambda t, c: te.sum(term(t, k, c), axis=[k]),
            name=NORM_SUMS,
            attrs=Mark(NORM_SUMS).annotations,
        )
        return make_function([dy, data, mean, inverse, result], OPAQUE)
    inner, (rn, ri, rj) = _tokens_axes(tokens)
    sums = te.compute(
        (2, 1, columns // x, x),
        lambda t, c, o, v: te.sum(term(t, rn * inner + rj, (c + o) * x + v), axis=[rn, ri, rj]),
        name=BLOCK,
        attrs=mark_roles("tcol"),
    )
    result = te.compute((2, columns), lambda t, c: sums[t, 0, c // x, c % x], name="finish")
    return make_function([dy, data, mean, inverse, result], OPAQUE)


def _tokens_axes(tokens: int) -> tuple[int, tuple[IterVar, IterVar, IterVar]]:
    """How many tokens may be written out in the innermost loop, and the axes of a sum over tokens."""
    from tvm import te

    inner = max(d for d in divisors(tokens) if d <= _TOKENS)
    if not any(_LEAST_CHUNK <= inner * d <= _MOST_CHUNK for d in divisors(tokens // inner)):
        inner = 1
    extents = (("n", tokens // inner), ("i", 1), ("j", inner))
    n, i, j = (te.reduce_axis((0, extent), name=name) for name, extent in extents)
    return inner, (n, i, j)
