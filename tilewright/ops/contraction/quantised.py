"""Tensor expressions of contractions of bytes: unsigned data times signed weights, with int32 sums.

In shapes, ``x`` is the number of channels in a block of the output, and ``cb`` that of the input, a multiple of 4. The
last axis of packed weights holds the four inputs that an instruction multiplies together, which are neighbouring
channels, or neighbouring rows of a depthwise kernel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.contraction.dot_products import FITS, PAIR, QUAD, SHIFT, Operands
from tilewright.ops.contraction.expression import count_outputs, pad_pixels
from tilewright.ops.contraction.form import BLOCK, KERNEL_ROWS, WIDEN, mark_roles
from tilewright.ops.function import FUSABLE, KEPT, OPAQUE, make_function

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = ["byte_conv2d", "byte_dense", "byte_depthwise_conv2d", "pad_with"]


#: The type of weights, by how many of them are multiplied together.
_WEIGHTS = {QUAD: "int8", PAIR: "int16"}


def _mark(roles: str, operands: Operands) -> dict[str, str]:
    return mark_roles(roles) | ({FITS: "yes"} if operands == "fitting" else {})


def _pad(data: Tensor, padding: tuple[int, int, int, int], zero: int, operands: Operands) -> Tensor:
    """The data with a margin of ``zero``; if they are shifted, minus 128, as int8."""
    if operands != "shifted":
        return pad_pixels(data, padding, zero)
    return pad_pixels(_shift(data, "signed" if any(padding) else WIDEN), padding, zero - SHIFT)


def _shift(data: Tensor, name: str) -> Tensor:
    """Unsigned bytes minus 128, as int8: their highest bit is the other one."""
    from tvm import te, tirx

    highest = tirx.const(SHIFT, "uint8")
    return te.compute(data.shape, lambda *at: tirx.reinterpret("int8", data(*at) ^ highest), name=name)


def _widen(data: Tensor, together: int) -> Tensor:
    """Bytes as int16, if these are multiplied in pairs; otherwise the bytes themselves."""
    from tvm import te

    if together == QUAD:
        return data
    return te.compute(data.shape, lambda *at: data(*at).astype("int16"), name=WIDEN)


@lru_cache(KEPT)
def byte_conv2d(
    data: tuple[int, ...],
    weight: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    zero: int,
    operands: Operands = "any",
) -> PrimFunc:
    """Convolution of NCHW[cb]c bytes with packed weights. Gives a PrimFunc (uint8 data, int8 weight, int32 sums).

    With weights in pairs, these are int16, and data are widened to int16 before they are multiplied.

    Args:
        data: shape ``(n, C/cb, h, w, cb)``.
        weight: shape ``(O/x, C/cb, kh, kw, cb/4, x, 4)``, or in pairs ``(O/x, C/cb, kh, kw, cb/2, x, 2)``.
        stride: of rows and columns.
        padding: top, left, bottom, right.
        dilation: of rows and columns.
        zero: the byte that stands for 0 in the padding.
        operands: what is known of them. If they are ``shifted``, 128 is subtracted from the data, so that they are
            signed, and weights are in quads.
    """
    from tvm import te

    n, cc, _, _, _ = data
    oo, _, kh, kw, groups, x, together = weight
    a = te.placeholder(data, "uint8", name="data")
    w = te.placeholder(weight, _WEIGHTS[together], name="weight")
    src = _widen(_pad(a, padding, zero, operands), together)
    rows, cols = count_outputs(src, (kh, kw), stride, dilation)
    rc, ry = te.reduce_axis((0, cc), "rc"), te.reduce_axis((0, kh), "ry")
    rx, ri = te.reduce_axis((0, kw), "rx"), te.reduce_axis((0, groups), "ri")
    rq = te.reduce_axis((0, together), "rq")
    c = te.compute(
        (n, oo, rows, cols, x),
        lambda b, o, i, j, v: te.sum(
            src[b, rc, i * stride[0] + ry * dilation[0], j * stride[1] + rx * dilation[1], ri * together + rq].astype(
                "int32"
            )
            * w[o, rc, ry, rx, ri, v, rq].astype("int32"),
            axis=[rc, ry, rx, ri, rq],
        ),
        name=BLOCK,
        attrs=_mark("boppl/rrrrq", operands),
    )
    return make_function([a, w, c], FUSABLE)


@lru_cache(KEPT)
def byte_depthwise_conv2d(
    data: tuple[int, ...],
    weight: tuple[int, ...],
    taps: int,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    zero: int,
) -> PrimFunc:
    """Convolution of every channel of bytes by itself. Gives a PrimFunc (uint8 data, int8 weight, int32 sums).

    An instruction multiplies a quad or a pair of the kernel's rows. A column of pixels is made a quad once for all sums
    that it is part of. Weights of rows beyond the kernel are zero; in the function, the padded image reaches as far.

    Args:
        data: shape ``(n, C/x, h, w, x)``.
        weight: shape ``(C/x, ceil(kh/4), kw, x, 4)``, or int16 in pairs ``(C/x, ceil(kh/2), kw, x, 2)``.
        taps: kh.
        stride: of rows and columns.
        padding: top, left, bottom, right.
        dilation: of rows and columns.
        zero: the byte that stands for 0 in the padding.
    """
    from tvm import te

    n, _, height, _, _ = data
    oo, groups, kw, x, together = weight
    top, left, bottom, right = padding
    a = te.placeholder(data, "uint8", name="data")
    w = te.placeholder(weight, _WEIGHTS[together], name="weight")
    rows = (top + height + bottom - dilation[0] * (taps - 1) - 1) // stride[0] + 1
    reach = (rows - 1) * stride[0] + (groups * together - 1) * dilation[0] + 1
    src = pad_pixels(a, (top, left, max(bottom, reach - top - height), right), zero)
    _, cols = count_outputs(src, (taps, kw), stride, dilation)
    ry, rx = te.reduce_axis((0, groups), "ry"), te.reduce_axis((0, kw), "rx")
    rq = te.reduce_axis((0, together), "rq")
    c = te.compute(
        (n, oo, rows, cols, x),
        lambda b, o, i, j, v: te.sum(
            src[b, o, i * stride[0] + (ry * together + rq) * dilation[0], j * stride[1] + rx * dilation[1], v].astype(
                "int32"
            )
            * w[o, ry, rx, v, rq].astype("int32"),
            axis=[ry, rx, rq],
        ),
        name=BLOCK,
        attrs=mark_roles("boppl/rrq") | {KERNEL_ROWS: f"{taps} {dilation[0]}"},
    )
    return make_function([a, w, c], FUSABLE)


@lru_cache(KEPT)
def byte_dense(rows: int, weight: tuple[int, ...], outputs: int, operands: Operands = "any") -> PrimFunc:
    """``(m, k)`` bytes times packed weights. Gives a PrimFunc (uint8 data, int8 weight, int32 sums ``(m, N)``).

    With weights in pairs, these are int16, and data are widened to int16 before they are multiplied.

    Args:
        rows: m.
        weight: shape ``(ceil(N/x), k/4, x, 4)``, or in pairs ``(ceil(N/x), k/2, x, 2)``.
        outputs: N. The output leaves out the columns of the last block beyond N.
        operands: what is known of them. If they are ``shifted``, 128 is subtracted from the data, so that they are
            signed, and weights are in quads.
    """
    from tvm import te

    oo, groups, x, together = weight
    a = te.placeholder((rows, groups * together), "uint8", name="data")
    w = te.placeholder(weight, _WEIGHTS[together], name="weight")
    k, q = te.reduce_axis((0, groups), "k"), te.reduce_axis((0, together), "q")
    src = _shift(a, WIDEN) if operands == "shifted" else _widen(a, together)
    c = te.compute(
        (rows, oo, x),
        lambda m, o, v: te.sum(src[m, k * together + q].astype("int32") * w[o, k, v, q].astype("int32"), axis=[k, q]),
        name=BLOCK,
        attrs=_mark("pol/rq", operands),
    )
    y = te.compute((rows, outputs), lambda m, n: c[m, n // x, n % x], name="unpack")
    return make_function([a, w, y], FUSABLE)


@lru_cache(KEPT)
def pad_with(data: tuple[int, ...], padding: tuple[int, int, int, int]) -> PrimFunc:
    """NCHW[cb]c bytes with a margin that holds one number. Gives a PrimFunc (uint8 data, uint8 number ``()``, output).

    Args:
        data: shape ``(n, C/cb, h, w, cb)``.
        padding: top, left, bottom, right.
    """
    from tvm import te, tirx

    n, blocks, rows, cols, block = data
    top, left, bottom, right = padding
    x, number = te.placeholder(data, "uint8", name="data"), te.placeholder((), "uint8", name="number")

    def at(b: Expr, c: Expr, i: Expr, j: Expr, v: Expr) -> Expr:
        inside = tirx.all(i >= top, i < top + rows, j >= left, j < left + cols)
        return tirx.if_then_else(inside, x[b, c, i - top, j - left, v], number())

    y = te.compute((n, blocks, rows + top + bottom, cols + left + right, block), at, name="pad_bytes")
    return make_function([x, number, y], OPAQUE)
