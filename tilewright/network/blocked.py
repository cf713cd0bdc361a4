"""Tensor expressions of contractions on blocked data: what the contraction template schedules.

``x`` is the vector length of the output's channel blocks, ``cb`` that of the input's.
"""

from __future__ import annotations

from typing import Any

__all__ = ["batch_matmul", "conv2d", "dense"]

#: TVM's OpPatternKind kOutEWiseFusable: a contraction that element-wise consumers are fused into.
_FUSABLE = 4


def conv2d(
    data: tuple[int, ...],
    weight: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> Any:
    """Convolution of NCHW[cb]c data ``(n, C/cb, h, w, cb)`` with ``(O/x, C/cb, kh, kw, cb, x)`` weights.

    Padding is (top, left, bottom, right). Gives a PrimFunc (data, weight, output).
    """
    from tvm import te

    n, cc, height, width, cb = data
    oo, _, kh, kw, _, x = weight
    top, left, bottom, right = padding
    a = te.placeholder(data, name="data")
    w = te.placeholder(weight, name="weight")
    src = a
    if any(padding):
        src = te.compute(
            (n, cc, height + top + bottom, width + left + right, cb),
            lambda b, c, i, j, v: te.if_then_else(
                te.all(i >= top, i < height + top, j >= left, j < width + left), a[b, c, i - top, j - left, v], 0.0
            ),
            name="pad",
        )
    rows = (height + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    cols = (width + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    rc, ry = te.reduce_axis((0, cc), "rc"), te.reduce_axis((0, kh), "ry")
    rx, ri = te.reduce_axis((0, kw), "rx"), te.reduce_axis((0, cb), "ri")
    c = te.compute(
        (n, oo, rows, cols, x),
        lambda b, o, i, j, v: te.sum(
            src[b, rc, i * stride[0] + ry * dilation[0], j * stride[1] + rx * dilation[1], ri]
            * w[o, rc, ry, rx, ri, v],
            axis=[rc, ry, rx, ri],
        ),
        name="contraction",
    )
    return _function([a, w, c])


def dense(rows: int, weight: tuple[int, ...]) -> Any:
    """``(m, k)`` data times ``(N/x, k, x)`` weights. Gives a PrimFunc (data, weight, output ``(m, N)``)."""
    from tvm import te

    oo, depth, x = weight
    a = te.placeholder((rows, depth), name="data")
    w = te.placeholder(weight, name="weight")
    k = te.reduce_axis((0, depth), "k")
    c = te.compute((rows, oo, x), lambda m, o, v: te.sum(a[m, k] * w[o, k, v], axis=[k]), name="contraction")
    y = te.compute((rows, oo * x), lambda m, n: c[m, n // x, n % x], name="unpack")
    return _function([a, w, y])


def batch_matmul(batch: int, m: int, n: int, k: int, x: int) -> Any:
    """``(b, m, k)`` times ``(b, k, n)``. Gives a PrimFunc (left, right, output ``(b, m, n)``). ``x`` divides ``n``."""
    from tvm import te

    a = te.placeholder((batch, m, k), name="left")
    w = te.placeholder((batch, k, n), name="right")
    r = te.reduce_axis((0, k), "k")
    c = te.compute(
        (batch, m, n // x, x),
        lambda b, i, o, v: te.sum(a[b, i, r] * w[b, r, o * x + v], axis=[r]),
        name="contraction",
    )
    y = te.compute((batch, m, n), lambda b, i, j: c[b, i, j // x, j % x], name="unpack")
    return _function([a, w, y])


def _function(tensors: list[Any]) -> Any:
    from tvm import te

    function = te.create_prim_func(tensors, index_dtype_override="int64")  # as Relax counts
    return function.without_attr("global_symbol").with_attr({"op_pattern": _FUSABLE, "tirx.noalias": True})
