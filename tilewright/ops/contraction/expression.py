"""Tensor expressions of convolutions, dense layers and products of matrices, on blocked data and packed weights.

In shapes, ``x`` is the number of channels in a block of the output, and ``cb`` that of the input. All functions take
element-wise consumers by fusion. Functions are kept and must not be changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.contraction.form import BLOCK, PACK, PAD, mark_roles
from tilewright.ops.function import FUSABLE, KEPT, make_function

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = [
    "Place",
    "Product",
    "batch_matmul",
    "conv2d",
    "count_outputs",
    "dense",
    "depthwise_conv2d",
    "grouped_conv2d",
    "pad_pixels",
]


@lru_cache(KEPT)
def conv2d(
    data: tuple[int, ...],
    weight: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    last: bool = False,
) -> PrimFunc:
    """Convolution of NCHW[cb]c data with packed weights. Gives a PrimFunc (data, weight, output).

    Args:
        data: shape ``(n, C/cb, h, w, cb)``.
        weight: shape ``(O/x, C/cb, kh, kw, cb, x)``.
        stride: of rows and columns.
        padding: top, left, bottom, right.
        dilation: of rows and columns.
        last: whether the output has one block of all channels. Otherwise its blocks are those of the weights.
    """
    from tvm import te

    n, cc, _, _, cb = data
    oo, _, kh, kw, _, x = weight
    a = te.placeholder(data, name="data")
    w = te.placeholder(weight, name="weight")
    src = pad_pixels(a, padding)
    rows, cols = count_outputs(src, (kh, kw), stride, dilation)
    rc, ry = te.reduce_axis((0, cc), "rc"), te.reduce_axis((0, kh), "ry")
    rx, ri = te.reduce_axis((0, kw), "rx"), te.reduce_axis((0, cb), "ri")
    c = te.compute(
        (n, oo, rows, cols, x),
        lambda b, o, i, j, v: te.sum(
            src[b, rc, i * stride[0] + ry * dilation[0], j * stride[1] + rx * dilation[1], ri]
            * w[o, rc, ry, rx, ri, v],
            axis=[rc, ry, rx, ri],
        ),
        name=BLOCK,
        attrs=mark_roles("boppl/rrrr"),
    )
    if not last:
        return make_function([a, w, c], FUSABLE)
    y = te.compute((n, 1, rows, cols, oo * x), lambda b, _, i, j, v: c[b, v // x, i, j, v % x], name="unpack")
    return make_function([a, w, y], FUSABLE)


@lru_cache(KEPT)
def grouped_conv2d(
    data: tuple[int, ...],
    weight: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    step: int,
    period: int,
) -> PrimFunc:
    """Convolution by groups of channels. Gives a PrimFunc (data, weight, output).

    If the data have one block of channels (channels last), input ``(rc, ri)`` of group g is channel ``rc * period +
    g * step + ri``, and the output has one block, too. Otherwise it is channel ``ri`` of block ``g * step + rc``, and
    the output has the shape ``(n, G * Og/x, h, w, x)``.

    Args:
        data: shape, as of :func:`conv2d`.
        weight: shape ``(G, Og/x, rc, kh, kw, ri, x)``: groups, output blocks of a group, and inputs of a group.
        stride: of rows and columns.
        padding: top, left, bottom, right.
        dilation: of rows and columns.
        step: between neighbouring groups: blocks, or channels where there is one block.
        period: channels between inputs with neighbouring ``rc``, where there is one block.
    """
    from tvm import te

    n = data[0]
    last = data[1] == 1
    groups, oo, sums, kh, kw, depth, x = weight
    a = te.placeholder(data, name="data")
    w = te.placeholder(weight, name="weight")
    src = pad_pixels(a, padding)
    rows, cols = count_outputs(src, (kh, kw), stride, dilation)
    rc, ry = te.reduce_axis((0, sums), "rc"), te.reduce_axis((0, kh), "ry")
    rx, ri = te.reduce_axis((0, kw), "rx"), te.reduce_axis((0, depth), "ri")

    def source(b: Expr, g: Expr, i: Expr, j: Expr) -> Expr:
        block, lane = (0, rc * period + g * step + ri) if last else (g * step + rc, ri)
        return src[b, block, i * stride[0] + ry * dilation[0], j * stride[1] + rx * dilation[1], lane]

    c = te.compute(
        (n, groups, oo, rows, cols, x),
        lambda b, g, o, i, j, v: te.sum(source(b, g, i, j) * w[g, o, rc, ry, rx, ri, v], axis=[rc, ry, rx, ri]),
        name=BLOCK,
        attrs=mark_roles("bgoppl/rrrr"),
    )
    if last:
        y = te.compute(
            (n, 1, rows, cols, groups * oo * x),
            lambda b, _, i, j, v: c[b, v // (oo * x), v // x % oo, i, j, v % x],
            name="unpack",
        )
    else:
        y = te.compute(
            (n, groups * oo, rows, cols, x), lambda b, o, i, j, v: c[b, o // oo, o % oo, i, j, v], name="unpack"
        )
    return make_function([a, w, y], FUSABLE)


@lru_cache(KEPT)
def depthwise_conv2d(
    data: tuple[int, ...],
    weight: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> PrimFunc:
    """Convolution of every channel by itself. Gives a PrimFunc (data, weight, output in the layout of the data).

    Args:
        data: shape, as of :func:`conv2d`, with blocks of x channels, or one block of all channels.
        weight: shape ``(C/x, kh, kw, x)``.
        stride: of rows and columns.
        padding: top, left, bottom, right.
        dilation: of rows and columns.
    """
    from tvm import te

    n = data[0]
    oo, kh, kw, x = weight
    a = te.placeholder(data, name="data")
    w = te.placeholder(weight, name="weight")
    src = pad_pixels(a, padding)
    rows, cols = count_outputs(src, (kh, kw), stride, dilation)
    ry, rx = te.reduce_axis((0, kh), "ry"), te.reduce_axis((0, kw), "rx")

    def source(b: Expr, o: Expr, i: Expr, j: Expr, v: Expr) -> Expr:
        block, lane = (o, v) if data[1] == oo else (0, o * x + v)
        return src[b, block, i * stride[0] + ry * dilation[0], j * stride[1] + rx * dilation[1], lane]

    c = te.compute(
        (n, oo, rows, cols, x),
        lambda b, o, i, j, v: te.sum(source(b, o, i, j, v) * w[o, ry, rx, v], axis=[ry, rx]),
        name=BLOCK,
        attrs=mark_roles("boppl/rr"),
    )
    if data[1] == oo:
        return make_function([a, w, c], FUSABLE)
    y = te.compute((n, 1, rows, cols, oo * x), lambda b, _, i, j, v: c[b, v // x, i, j, v % x], name="unpack")
    return make_function([a, w, y], FUSABLE)


@lru_cache(KEPT)
def dense(rows: int, weight: tuple[int, ...], outputs: int, halves: bool = False) -> PrimFunc:
    """``(m, k)`` data times packed weights. Gives a PrimFunc (data, weight, output ``(m, N)``).

    Args:
        rows: m.
        weight: shape ``(ceil(N/x), k, x)``.
        outputs: N. The output leaves out the columns of the last block beyond N.
        halves: whether the weights are bfloat16 numbers, whose bits are in uint16. They are widened in registers, which
            is exact: a bfloat16 number is the upper half of a float32 number.
    """
    from tvm import te, tirx

    oo, depth, x = weight
    a = te.placeholder((rows, depth), name="data")
    w = te.placeholder(weight, "uint16" if halves else "float32", name="weight")
    k = te.reduce_axis((0, depth), "k")

    def number(o: Expr, v: Expr) -> Expr:
        found = w[o, k, v]
        return tirx.reinterpret("float32", found.astype("uint32") << tirx.const(16, "uint32")) if halves else found

    c = te.compute(
        (rows, oo, x), lambda m, o, v: te.sum(a[m, k] * number(o, v), axis=[k]), name=BLOCK, attrs=mark_roles("pol/r")
    )
    y = te.compute((rows, outputs), lambda m, n: c[m, n // x, n % x], name="unpack")
    return make_function([a, w, y], FUSABLE)


#: Where a dimension of an operand is read: at ("fixed", index), along a part of the batch ("batch", number), or along
#: ("m", 0), ("k", 0) or ("n", 0).
Place = tuple[str, int]


@dataclass(frozen=True)
class Product:
    """A batch of matrix products ``(batch, m, k) x (batch, k, n)`` whose operands are read in place.

    Attributes:
        batch: extents of the batch's parts.
        m, k, n: extents of the matrices.
        left, right: extent and place of each dimension of the operands.
        out: place of each dimension of the result.
    """

    batch: tuple[int, ...]
    m: int
    k: int
    n: int
    left: tuple[tuple[int, Place], ...]
    right: tuple[tuple[int, Place], ...]
    out: tuple[Place, ...]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return tuple(self.batch[i] if kind == "batch" else getattr(self, kind) for kind, i in self.out)


@lru_cache(KEPT)
def batch_matmul(product: Product, x: int) -> PrimFunc:
    """A batch of matrix products. Gives a PrimFunc (left, right, output).

    The right operand is packed into ``(b, n/x, k, x)``, which the template does just before its use. If ``x`` does not
    divide the columns, the last block holds the last ``x`` of them. So the block before it has some of these, too, and
    all blocks can be written as whole vectors.

    Args:
        product: the operands, the result, and how they lie.
        x: columns in a block of the packed operand.
    """
    from tvm import te, tirx

    batch = math.prod(product.batch)
    steps = [math.prod(product.batch[i + 1 :]) for i in range(len(product.batch))]

    def indices(dims: tuple[tuple[int, Place], ...], b: Expr, **axes: Expr) -> list[Expr]:
        found = []
        for extent, (kind, i) in dims:
            if kind == "batch":
                # With one part its index is b itself, without arithmetic that TVM would have to simplify.
                found.append(b if extent == batch else b // steps[i] % extent if i else b // steps[i])
            else:
                found.append(i if kind == "fixed" else axes[kind])
        return found

    a = te.placeholder([e for e, _ in product.left], name="left")
    w = te.placeholder([e for e, _ in product.right], name="right")
    blocks = -(-product.n // x)

    def first_column(o: Expr) -> Expr:
        return o * x if product.n % x == 0 else tirx.min(o * x, product.n - x)

    def packed(b: Expr, o: Expr, k: Expr, v: Expr) -> Expr:
        return w(*indices(product.right, b, k=k, n=first_column(o) + v))

    p = te.compute((batch, blocks, product.k, x), packed, name=PACK)
    r = te.reduce_axis((0, product.k), "k")
    c = te.compute(
        (batch, product.m, blocks, x),
        lambda b, i, o, v: te.sum(a(*indices(product.left, b, m=i, k=r)) * p[b, o, r, v], axis=[r]),
        name=BLOCK,
        attrs=mark_roles("bpol/r"),
    )

    def unpacked(*axes: Expr) -> Expr:
        at = dict(zip(product.out, axes, strict=True))
        b = sum(((at["batch", i] * step) for i, step in enumerate(steps)), 0)
        n = at["n", 0]
        return c[b, at["m", 0], n // x, n % x if product.n % x == 0 else n - first_column(n // x)]

    y = te.compute(product.out_shape, unpacked, name="unpack")
    return make_function([a, w, y], FUSABLE)


def pad_pixels(data: Tensor, padding: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """The tensor with zeros, or another value, around its pixels; itself without padding.

    Args:
        data: the pixels are its third and fourth dimension.
        padding: top, left, bottom, right.
        value: what stands around the pixels.
    """
    from tvm import te, tirx

    if not any(padding):
        return data
    around = value if str(data.dtype) == "float32" else tirx.const(int(value), str(data.dtype))
    height, width = data.shape[2:4]
    top, left, bottom, right = padding
    return te.compute(
        (*data.shape[:2], height + top + bottom, width + left + right, *data.shape[4:]),
        lambda b, c, i, j, *v: te.if_then_else(
            te.all(i >= top, i < height + top, j >= left, j < width + left), data(b, c, i - top, j - left, *v), around
        ),
        name=PAD,
    )


def count_outputs(
    data: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of the result of a convolution of padded data."""
    rows, cols = ((int(data.shape[2 + d]) - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in range(2))
    return rows, cols
