"""Tensor expressions of sums over all tokens: gradients of the weights of dense layers and of layer norms.

The gradient of a dense layer's weights is the product of a transposed matrix and a matrix, both with a row for each
token. It is a sum over tokens as that of a convolution is one over pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import KEPT, OPAQUE, make_function
from tilewright.ops.mark import Mark
from tilewright.ops.pixel_sums.form import BLOCK, mark_roles
from tilewright.space.knob import divisors

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import IterVar, PrimFunc

__all__ = ["NORM_SUMS", "norm_sums", "token_product"]

#: The kind of the mark of :func:`norm_sums` as importers emit it.
NORM_SUMS = "norm_sums"

#: Most columns of the left matrix that are summed for a piece of the tokens while that piece is in the cache.
_MOST_COLUMNS = 64
#: Most tokens that may be written out in the innermost loop.
_TOKENS = 4


@lru_cache(KEPT)
def token_product(tokens: int, left: int, right: int, x: int) -> PrimFunc:
    """The product ``left^T right``. Gives a PrimFunc (left, right, product), of shape ``(left, right)``.

    Args:
        tokens: the rows of both matrices.
        left: the columns of the left matrix. A register tile holds some of them.
        right: the columns of the right matrix.
        x: the columns of the right matrix in a vector, a divisor of them.
    """
    from tvm import te

    inner, (rn, ri, rj) = _tokens_axes(tokens)
    unit = max(d for d in divisors(left) if d <= _MOST_COLUMNS)
    a, b = te.placeholder((tokens, left), name="left"), te.placeholder((tokens, right), name="right")
    sums = te.compute(
        (left // unit, right // x, unit, x),
        lambda c, o, u, v: te.sum(a[rn * inner + rj, c * unit + u] * b[rn * inner + rj, o * x + v], axis=[rn, ri, rj]),
        name=BLOCK,
        attrs=mark_roles("coul"),
    )
    result = te.compute((left, right), lambda i, j: sums[i // unit, j // x, i % unit, j % x], name="unpack")
    return make_function([a, b, result], OPAQUE)


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
        (2, columns // x, x),
        lambda t, c, v: te.sum(term(t, rn * inner + rj, c * x + v), axis=[rn, ri, rj]),
        name=BLOCK,
        attrs=mark_roles("tcl"),
    )
    result = te.compute((2, columns), lambda t, c: sums[t, c // x, c % x], name="finish")
    return make_function([dy, data, mean, inverse, result], OPAQUE)


def _tokens_axes(tokens: int) -> tuple[int, tuple[IterVar, IterVar, IterVar]]:
    """How many tokens may be written out in the innermost loop, and the axes of a sum over tokens."""
    from tvm import te

    inner = max(d for d in divisors(tokens) if d <= _TOKENS)
    extents = (("n", tokens // inner), ("i", 1), ("j", inner))
    n, i, j = (te.reduce_axis((0, extent), name=name) for name, extent in extents)
    return inner, (n, i, j)
