"""Tensor expressions of contractions of bfloat16 numbers, with float32 sums.

The data are float32. A block before the contraction rounds them to the nearest bfloat16 numbers, so that each is
rounded once. A bfloat16 number is the upper half of a float32 number; uint16 holds its bits. The last axis of packed
weights holds the two inputs that an instruction multiplies together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.contraction.expression import count_outputs, pad_pixels
from tilewright.ops.contraction.form import BLOCK, WIDEN, mark_roles
from tilewright.ops.function import FUSABLE, KEPT, make_function

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = ["bf16_conv2d", "bf16_dense", "round_to_bf16"]

#: The bits of infinity in float32, above which NaN lies; all bits but the sign; and the bit that keeps NaN a NaN when
#: the lower bits are cut off.
_INFINITY, _SIZE, _QUIET = 0x7F800000, 0x7FFFFFFF, 0x0040
#: Just less than half a unit in the last place of a bfloat16 number, in bits of float32.
_HALF = 0x7FFF


@lru_cache(KEPT)
def bf16_conv2d(
    data: tuple[int, ...],
    weight: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    last: bool = False,
) -> PrimFunc:
    """Convolution of NCHW[cb]c data, rounded to bfloat16, with packed weights. Gives a PrimFunc (data, weight, output).

    Args:
        data: float32, shape ``(n, C/cb, h, w, cb)``.
        weight: bits of bfloat16 in uint16, shape ``(O/x, C/cb, kh, kw, cb/2, x, 2)``.
        stride: of rows and columns.
        padding: top, left, bottom, right.
        dilation: of rows and columns.
        last: whether the output has one block of all channels. Otherwise its blocks are those of the weights.
    """
    from tvm import te

    n, cc, _, _, _ = data
    oo, _, kh, kw, groups, x, pair = weight
    a = te.placeholder(data, name="data")
    w = te.placeholder(weight, "uint16", name="weight")
    src = pad_pixels(_round(a, "halves" if any(padding) else WIDEN), padding)
    rows, cols = count_outputs(src, (kh, kw), stride, dilation)
    rc, ry = te.reduce_axis((0, cc), "rc"), te.reduce_axis((0, kh), "ry")
    rx, ri = te.reduce_axis((0, kw), "rx"), te.reduce_axis((0, groups), "ri")
    rq = te.reduce_axis((0, pair), "rq")
    c = te.compute(
        (n, oo, rows, cols, x),
        lambda b, o, i, j, v: te.sum(
            _widen(src[b, rc, i * stride[0] + ry * dilation[0], j * stride[1] + rx * dilation[1], ri * pair + rq])
            * _widen(w[o, rc, ry, rx, ri, v, rq]),
            axis=[rc, ry, rx, ri, rq],
        ),
        name=BLOCK,
        attrs=mark_roles("boppl/rrrrq"),
    )
    if not last:
        return make_function([a, w, c], FUSABLE)
    y = te.compute((n, 1, rows, cols, oo * x), lambda b, _, i, j, v: c[b, v // x, i, j, v % x], name="unpack")
    return make_function([a, w, y], FUSABLE)


@lru_cache(KEPT)
def bf16_dense(rows: int, weight: tuple[int, ...], outputs: int) -> PrimFunc:
    """``(m, k)`` data, rounded to bfloat16, times packed weights. Gives a PrimFunc (data, weight, output ``(m, N)``).

    Args:
        rows: m.
        weight: bits of bfloat16 in uint16, shape ``(ceil(N/x), k/2, x, 2)``.
        outputs: N. The output leaves out the columns of the last block beyond N.
    """
    from tvm import te

    oo, groups, x, pair = weight
    a = te.placeholder((rows, groups * pair), name="data")
    w = te.placeholder(weight, "uint16", name="weight")
    src = _round(a, WIDEN)
    k, q = te.reduce_axis((0, groups), "k"), te.reduce_axis((0, pair), "q")
    c = te.compute(
        (rows, oo, x),
        lambda m, o, v: te.sum(_widen(src[m, k * pair + q]) * _widen(w[o, k, v, q]), axis=[k, q]),
        name=BLOCK,
        attrs=mark_roles("pol/rq"),
    )
    y = te.compute((rows, outputs), lambda m, n: c[m, n // x, n % x], name="unpack")
    return make_function([a, w, y], FUSABLE)


def round_to_bf16(array: NDArray[np.generic]) -> NDArray[np.uint16]:
    """The bits of the bfloat16 numbers that are nearest to those of an array of float32. NaN stays NaN."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    upper = bits >> np.uint32(16)
    even = (bits + (np.uint32(_HALF) + (upper & np.uint32(1)))) >> np.uint32(16)
    is_number = (bits & np.uint32(_SIZE)) <= np.uint32(_INFINITY)
    return np.where(is_number, even, upper | np.uint32(_QUIET)).astype(np.uint16).reshape(array.shape)


def _round(data: Tensor, name: str) -> Tensor:
    """The bits of the nearest bfloat16 numbers; of two that are as near, the even one. NaN stays NaN."""
    from tvm import te, tirx

    def constant(value: int) -> Expr:
        return tirx.const(value, "uint32")

    def half(*at: Expr) -> Expr:
        bits = tirx.Var("bits", "uint32")
        upper = bits >> constant(16)
        even = (bits + (constant(_HALF) + (upper & constant(1)))) >> constant(16)
        is_number = (bits & constant(_SIZE)) <= constant(_INFINITY)
        found = tirx.Select(is_number, even, upper | constant(_QUIET))
        return tirx.Let(bits, tirx.reinterpret("uint32", data(*at)), found).astype("uint16")

    return te.compute(data.shape, half, name=name)


def _widen(bits: Expr) -> Expr:
    """The float32 number of a bfloat16 number, which is exact."""
    from tvm import tirx

    return tirx.reinterpret("float32", bits.astype("uint32") << tirx.const(16, "uint32"))
