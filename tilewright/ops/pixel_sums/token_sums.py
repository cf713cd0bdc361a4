"""Tensor expressions of sums over all tokens: gradients of the weights of dense layers and of layer norms.

The gradient of a dense layer's weights is the product of a transposed matrix and a matrix, both with a row for each
token. It is a sum over tokens as that of a convolution is one over pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import KEPT, OPAQUE, make_function
from tilewright.ops.mark import Mark, take_mark
from tilewright.ops.pixel_sums.form import BLOCK, KIND, PACKS, mark_roles
from tilewright.space.knob import divisors

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import IterVar, PrimFunc

__all__ = ["NORM_SUMS", "TOKEN_SUM", "is_token_sum", "norm_sums", "token_product", "token_sum"]

#: The kind of the mark of :func:`norm_sums` as importers emit it.
NORM_SUMS = "norm_sums"
#: How the names of functions of :func:`token_sum` begin.
TOKEN_SUM = "token_sum"

#: The roles of the iterators of a sum of columns.
_COLUMNS = "col"
#: Columns of the left matrix that are packed side by side. Register tiles of 4 x 6, 3 x 8 and 2 x 12 vectors and
#: numbers divide them, and those of 2 x 6 and 3 x 4 for 16 registers. Columns that are missing at the end are some
#: others once more, whose sums nobody reads.
_SIDE = 24
#: Columns that are read together where some are missing. They divide the columns.
_GROUP = 8
#: Most columns that are packed side by side where these numbers do not fit: a line of a cache.
_LINE = 16
#: Most tokens that may be written out in the innermost loop.
_TOKENS = 4
#: Tokens of a chunk, at best. If no such chunks divide the tokens, none are written out, so that others do.
_LEAST_CHUNK, _MOST_CHUNK = 32, 256


@lru_cache(KEPT)
def token_product(tokens: int, left: int, right: int, x: int) -> PrimFunc:
    """The product ``left^T right``. Gives a PrimFunc (left, right, product), of shape ``(left, right)``.

    Blocks before the sum pack both matrices, so that what a register tile reads lies together. The template leaves
    them out, or packs a chunk of tokens just before its use.

    Args:
        tokens: the rows of both matrices.
        left: the columns of the left matrix. A register tile holds some of them.
        right: the columns of the right matrix.
        x: the columns of the right matrix in a vector, a divisor of them.
    """
    from tvm import te, tirx

    inner, (rn, ri, rj) = _tokens_axes(tokens)
    side, group = _sides(left)
    a, b = te.placeholder((tokens, left), name="left"), te.placeholder((tokens, right), name="right")

    def column(c: Expr, u: Expr) -> Expr:
        if left % side == 0:
            return c * side + u
        return tirx.min(c * side + u // group * group, left - group) + u % group

    packed_left = te.compute((-(-left // side), tokens, side), lambda c, t, u: a[t, column(c, u)], name=PACKS[0])
    packed_right = te.compute((right // x, tokens, x), lambda o, t, v: b[t, o * x + v], name=PACKS[1])

    def term(c: Expr, o: Expr, u: Expr, v: Expr) -> Expr:
        token = rn * inner + rj
        return packed_left[c, token, u] * packed_right[o, token, v]

    sums = te.compute(
        (-(-left // side), right // x, side, x),
        lambda c, o, u, v: te.sum(term(c, o, u, v), axis=[rn, ri, rj]),
        name=BLOCK,
        attrs=mark_roles("coul"),
    )

    result = te.compute((left, right), lambda i, j: sums[i // side, j // x, i % side, j % x], name="unpack")
    return make_function([a, b, result], OPAQUE)


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


def _sides(left: int) -> tuple[int, int]:
    """How many columns are packed side by side, and how many are read together where some are missing."""
    if left > _SIDE and left % _GROUP == 0:
        return _SIDE, _GROUP
    side = max(d for d in divisors(left) if d <= _LINE)
    return side, side


def _tokens_axes(tokens: int) -> tuple[int, tuple[IterVar, IterVar, IterVar]]:
    """How many tokens may be written out in the innermost loop, and the axes of a sum over tokens."""
    from tvm import te

    inner = max(d for d in divisors(tokens) if d <= _TOKENS)
    if not any(_LEAST_CHUNK <= inner * d <= _MOST_CHUNK for d in divisors(tokens // inner)):
        inner = 1
    extents = (("n", tokens // inner), ("i", 1), ("j", inner))
    n, i, j = (te.reduce_axis((0, extent), name=name) for name, extent in extents)
    return inner, (n, i, j)
