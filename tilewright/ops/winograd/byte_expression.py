"""Winograd's F(2x2, 3x3) for convolutions of bytes, in int16 and int32. It gives the sums of the direct algorithm.

The transform of kernels has halves. They are multiplied by 2, by rows and by columns, so that all numbers are integers,
and four times each sum comes out:

    4 Y = A^T [ ((2G) g (2G)^T) . (B^T d B) ] A

    data       uint8 (n, C/cb, h, w, cb)                 --> V int16 (16, C/cb, P, cb)     B^T d B, at most 1020
    products   V, U int16 (16, O/x, C/cb, cb/2, x, 2)    --> M int32 (16, O/x, P, x)       16 products of pairs
    inverse    M                                         --> int32 (n, O/x, rows, cols, x) A^T M A / 4, cropped

No sum exceeds int32 with at most ``MOST_INPUTS`` channels. A product takes 16 multiplications for 4 outputs, instead of
36. It gains where the instruction that multiplies bytes takes int16 anyway (:func:`.multiplies_pairs`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.contraction.dot_products import PAIR
from tilewright.ops.contraction.form import BLOCK, mark_roles
from tilewright.ops.function import FUSABLE, KEPT, OPAQUE, make_function
from tilewright.ops.winograd.expression import Tiling, inverse_tiles, transform_tiles

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = [
    "MOST_INPUTS",
    "byte_data_transform",
    "byte_inverse_transform",
    "byte_products",
    "transform_byte_weight",
]

#: The most input channels. An element of M is at most 1020 * 1152 for each channel, and the inverse transform first
#: adds two of them: 2 * 1020 * 1152 * 912 < 2^31.
MOST_INPUTS = 912
#: Twice the transform of kernels.
_TWICE_G = ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2))


def transform_byte_weight(weight: NDArray[np.generic]) -> NDArray[np.int16]:
    """``(2G) g (2G)^T`` of each kernel, at most 1152: int8 ``(O, C, 3, 3)`` --> ``(O, C, 4, 4)``."""
    g = np.asarray(_TWICE_G, dtype=np.int16)
    return np.asarray(g @ weight.astype(np.int16) @ g.T, dtype=np.int16)


@lru_cache(KEPT)
def byte_data_transform(tiling: Tiling, data: tuple[int, ...], zero: int) -> PrimFunc:
    """``B^T d B`` of all tiles d of NCHW[cb]c bytes. Gives a PrimFunc (uint8 data, int16 V); nothing is fused with it.

    Args:
        tiling: the tiles, of 2 x 2 outputs.
        data: shape of the data.
        zero: the byte that stands for 0 in the padding.
    """
    from tvm import te, tirx

    x = te.placeholder(data, "uint8", name="data")
    return make_function([x, transform_tiles(tiling, x, tirx.const(zero, "int16"))], OPAQUE)


@lru_cache(KEPT)
def byte_products(tiling: Tiling, weight: tuple[int, ...]) -> PrimFunc:
    """The products of V and U: a contraction of pairs. Gives a PrimFunc (V, U, int32 M), which nothing is fused with.

    Args:
        tiling: the tiles.
        weight: shape of U, ``(16, O/x, C/cb, cb/2, x, 2)``.
    """
    from tvm import te

    count, oo, cc, groups, x, _ = weight
    data = te.placeholder((count, cc, tiling.tiles, groups * PAIR), "int16", name="data")
    w = te.placeholder(weight, "int16", name="weight")
    rc, ri, rq = te.reduce_axis((0, cc), "rc"), te.reduce_axis((0, groups), "ri"), te.reduce_axis((0, PAIR), "rq")
    c = te.compute(
        (count, oo, tiling.tiles, x),
        lambda b, o, p, v: te.sum(
            data[b, rc, p, ri * PAIR + rq].astype("int32") * w[b, o, rc, ri, v, rq].astype("int32"), axis=[rc, ri, rq]
        ),
        name=BLOCK,
        attrs=mark_roles("bopl/rrq"),
    )
    return make_function([data, w, c], OPAQUE)


@lru_cache(KEPT)
def byte_inverse_transform(tiling: Tiling, oo: int, x: int) -> PrimFunc:
    """``A^T M A / 4`` of all tiles, cropped. Gives a PrimFunc (int32 M, int32 sums), which consumers are fused into."""
    from tvm import te

    source = te.placeholder((tiling.a**2, oo, tiling.tiles, x), "int32", name="data")
    return make_function([source, inverse_tiles(tiling, source, divisor=4)], FUSABLE)
