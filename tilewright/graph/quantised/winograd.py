"""Convolutions of bytes by Winograd's algorithm, which gives the same int32 sums as the direct one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilewright.graph.value import shape_of
from tilewright.ops.contraction.dot_products import PAIR
from tilewright.ops.winograd import (
    MOST_INPUTS,
    Tiling,
    byte_data_transform,
    byte_inverse_transform,
    byte_products,
    transform_byte_weight,
)

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter
    from tilewright.graph.weights import Recipe

__all__ = ["convolve_by_winograd"]

#: Tiles from which the algorithm is used. With 16 tiles (512 channels, 7x7 pixels), the products alone took 0.80 of the
#: time of the direct algorithm on a Zen 3, with weights in the last cache. These are 16/9 as large as its own.
_TILES = 36


def convolve_by_winograd(
    walk: Rewriter,
    packed: relax.Expr,
    kernel: Recipe,
    x: int,
    window: tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]],
    zero: int,
) -> relax.Expr | None:
    """The int32 sums of a 3x3 convolution by F(2x2, 3x3), if it is faster so; None otherwise.

    Args:
        walk: the rewriter. Only with its ``pairs`` the algorithm gains.
        packed: the data, uint8 ``(n, C/cb, h, w, cb)``.
        kernel: int8 ``(O, C, kh, kw)``, with the channels in the order of the blocks.
        x: channels in a block of the output.
        window: stride, padding (top, left, bottom, right) and dilation.
        zero: the byte that stands for 0 in the padding.
    """
    stride, padding, dilation = window
    data, (out, channels, *sides) = shape_of(packed), kernel.shape
    n, cc, height, width, cb = data
    if not walk.pairs or sides != [3, 3] or stride != (1, 1) or dilation != (1, 1) or channels > MOST_INPUTS:
        return None
    tiling = Tiling.of(2, n, height, width, padding)
    if tiling.tiles < _TILES or min(tiling.grid) < 1:
        return None
    made = transform_byte_weight(kernel.apply({**walk.arrays, **walk.made}))
    squares, oo = tiling.a**2, out // x
    pairs = made.reshape(oo, x, cc, cb // PAIR, PAIR, squares).transpose(5, 0, 2, 3, 1, 4)
    weight = walk.add_weight(walk.make_weight(np.ascontiguousarray(pairs)))
    transformed = walk.call(
        byte_data_transform(tiling, data, zero), [packed], (squares, cc, tiling.tiles, cb), "byte_winograd2", "int16"
    )
    products = walk.call(
        byte_products(tiling, pairs.shape), [transformed, weight], (squares, oo, tiling.tiles, x), "products2", "int32"
    )
    result = (n, oo, tiling.rows, tiling.cols, x)
    return walk.call(byte_inverse_transform(tiling, oo, x), [products], result, "byte_inverse2", "int32")
