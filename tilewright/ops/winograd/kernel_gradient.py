"""Gradients of the weights of 3x3 convolutions by Winograd's minimal filtering, with the tiles of the convolution.

The convolution is ``Y = A^T [ (G g G^T) . (B^T d B) ] A`` for each tile. So the gradient of its weights is

    dg = G^T [ sum over tiles of (A dy A^T) . (B^T d B) ] G

For m = 4 the sum has a quarter of the multiply-adds of the sum over pixels. With the letters of :mod:`expression`:

    data        (n, C/cb, h, w, cb)         --> V (a*a, C/cb, P, cb)            B^T d B, as for the convolution
    spread      (n, O/x, rows, cols, x)     --> W (a*a, O/x, P, x)              A dy A^T
    sums        V, W                        --> S (a*a, C/cb, O/x, cb, x)       a*a sums over tiles
    gather      S                           --> (O/x, C, 3, 3, x)               G^T S G
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import KEPT, OPAQUE, make_function
from tilewright.ops.mark import Mark
from tilewright.ops.pixel_sums import form as sums_form
from tilewright.ops.winograd.expression import (
    DATA,
    FAR,
    INVERSE,
    KIND,
    NEAR,
    PAD,
    ROWS,
    Tiling,
    choose,
    kernel_rows,
    make_number,
)

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import PrimFunc

__all__ = ["gather_kernels", "spread_gradient", "sum_tiles"]

_MARK = Mark(KIND).annotations


@lru_cache(KEPT)
def spread_gradient(tiling: Tiling, gradient: tuple[int, ...]) -> PrimFunc:
    """``A dy A^T`` of all tiles of a convolution's result. Gives a PrimFunc (gradient, W).

    Args:
        tiling: of the convolution. Tiles that stick out are filled with zeros.
        gradient: shape ``(n, O/x, rows, cols, x)``.
    """
    from tvm import te

    batch, oo, height, width, x = gradient
    m, a = tiling.m, tiling.a
    down, across = tiling.grid
    source = dy = te.placeholder(gradient, name="gradient")
    if (down * m, across * m) != (height, width):
        source = te.compute(
            (batch, oo, down * m, across * m, x),
            lambda n, o, i, j, v: te.if_then_else(te.all(i < height, j < width), dy[n, o, i, j, v], 0.0),
            name=PAD,
        )
    rows = te.compute(
        (batch, oo, down, across, a, m, x),
        lambda n, o, i, j, u, s, v: choose(u, _SPREAD[m]([source[n, o, i * m + r, j * m + s, v] for r in range(m)])),
        name=ROWS,
    )

    def both(xi: Expr, o: Expr, p: Expr, v: Expr) -> Expr:
        n, i, j = p // (down * across), p // across % down, p % across
        return choose(xi % a, _SPREAD[m]([rows[n, o, i, j, xi // a, s, v] for s in range(m)]))

    result = te.compute((a * a, oo, tiling.tiles, x), both, name=DATA, attrs=_MARK)
    return make_function([dy, result], OPAQUE)


@lru_cache(KEPT)
def sum_tiles(tiling: Tiling, data: tuple[int, int], gradient: tuple[int, int]) -> PrimFunc:
    """The sums over all tiles of products of V and W: sums over pixels. Gives a PrimFunc (V, W, S).

    Args:
        tiling: of the convolution.
        data: ``(C/cb, cb)``.
        gradient: ``(O/x, x)``.
    """
    from tvm import te

    (cc, cb), (oo, x), count = data, gradient, tiling.a**2
    down, across = tiling.grid
    left = te.placeholder((count, cc, tiling.tiles, cb), name="data")
    right = te.placeholder((count, oo, tiling.tiles, x), name="gradient")
    extents = (("n", tiling.batch), ("i", down), ("j", across))
    rn, ri, rj = (te.reduce_axis((0, extent), name=name) for name, extent in extents)

    def term(q: Expr, c: Expr, o: Expr, u: Expr, v: Expr) -> Expr:
        tile = (rn * down + ri) * across + rj
        return left[q, c, tile, u] * right[q, o, tile, v]

    shape = (count, cc, oo, cb, x)
    sums = te.compute(
        shape,
        lambda *place: te.sum(term(*place), axis=[rn, ri, rj]),
        name=sums_form.BLOCK,
        attrs=sums_form.mark_roles("gcoul"),
    )
    return make_function([left, right, sums], OPAQUE)


@lru_cache(KEPT)
def gather_kernels(m: int, data: tuple[int, int], gradient: tuple[int, int]) -> PrimFunc:
    """``G^T S G`` of each kernel. Gives a PrimFunc (S, gradient of the weights ``(O/x, C, 3, 3, x)``).

    Args:
        m: of the tiling.
        data: ``(C/cb, cb)``.
        gradient: ``(O/x, x)``.
    """
    from tvm import te

    (cc, cb), (oo, x), a = data, gradient, m + 2
    source = te.placeholder((a * a, cc, oo, cb, x), name="sums")
    # Inputs take the place of rows of tiles, of which each has one tile.
    rows = te.compute(
        (1, oo, cc * cb, 1, 3, a, x),
        lambda n, o, i, j, u, s, v: choose(u, _GATHER[m]([source[r * a + s, i // cb, o, i % cb, v] for r in range(a)])),
        name=ROWS,
    )
    whole = te.compute(
        (1, oo, cc * cb * 3, 3, x),
        lambda n, o, i, j, v: choose(j % 3, _GATHER[m]([rows[n, o, i // 3, j // 3, i % 3, s, v] for s in range(a)])),
        name=INVERSE,
        attrs=_MARK,
    )
    shape = (oo, cc * cb, 3, 3, x)
    result = te.compute(shape, lambda o, c, y, k, v: whole[0, o, c * 3 + y, k, v], name="winograd_kernels")
    return make_function([source, result], OPAQUE)


# One-dimensional transforms. They write equal terms alike, so that the compiler computes these once.


def _spread4(g: Sequence[Expr]) -> list[Expr]:
    near, near2, near3 = (make_number(NEAR**power) for power in (1, 2, 3))
    far, far2, far3 = (make_number(FAR**power) for power in (1, 2, 3))
    even, odd = g[0] + near2 * g[2], near * g[1] + near3 * g[3]
    far_even, far_odd = g[0] + far2 * g[2], far * g[1] + far3 * g[3]
    return [g[0], even + odd, even - odd, far_even + far_odd, far_even - far_odd, g[3]]


def _gather4(m: Sequence[Expr]) -> list[Expr]:
    first, near, _, far, _, last = kernel_rows()
    pairs = [(m[1] + m[2], near[0]), (m[1] - m[2], near[1]), (m[1] + m[2], near[2])]
    others = [(m[3] + m[4], far[0]), (m[3] - m[4], far[1]), (m[3] + m[4], far[2])]
    ends = [make_number(first[0]) * m[0], None, make_number(last[2]) * m[5]]
    results = []
    for end, (one, factor), (other, far_factor) in zip(ends, pairs, others, strict=True):
        both = make_number(factor) * one + make_number(far_factor) * other
        results.append(both if end is None else both + end)
    return results


#: ``A g`` of a column g, and ``G^T m`` of a column m, by the m of the tiling.
_SPREAD: dict[int, Callable[[Sequence[Expr]], list[Expr]]] = {4: _spread4}
_GATHER: dict[int, Callable[[Sequence[Expr]], list[Expr]]] = {4: _gather4}
