"""Means, products and layer norms of bytes: no tensor of float32 is as large as an image or as all tokens."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tilewright.graph import token_rows
from tilewright.graph.quantised.computing import settle
from tilewright.graph.quantised.scaled import Scaled, Term, find_bytes
from tilewright.graph.value import Value, shape_of
from tilewright.ops.elementwise.affine import product
from tilewright.ops.window.expression import sum_bytes

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["average_pool", "layer_norm", "mean", "multiply"]


def mean(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The mean over all pixels of blocked bytes."""
    value = args[0]
    axes = sorted(int(a) % 4 for a in call.attrs.axis or ())
    if not isinstance(value, Value) or len(value.shape) != 4 or axes != [2, 3] or not call.attrs.keepdims:
        return None
    height, width = value.shape[2:]
    return _average(walk, value, shape_of(call), (height, width), (1, 1), (0, 0, 0, 0))


def average_pool(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The mean over windows of blocked bytes. Padding counts as zeros; None if it does not count."""
    attrs, value = call.attrs, args[0]
    top, left, bottom, right = (int(v) for v in attrs.padding)
    plain = str(attrs.layout) == "NCHW" and all(int(d) == 1 for d in attrs.dilation) and not attrs.ceil_mode
    counted = bool(attrs.count_include_pad) or not any((top, left, bottom, right))
    if not isinstance(value, Value) or not plain or not counted:
        return None
    (kh, kw), (down, across) = ((int(a), int(b)) for a, b in (attrs.pool_size, attrs.strides))
    return _average(walk, value, shape_of(call), (kh, kw), (down, across), (top, left, bottom, right))


def _average(
    walk: Rewriter,
    value: Value,
    shape: tuple[int, ...],
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> Value | None:
    form, found = value.scaled_form, find_bytes(value.scaled_form)
    if form is None or found is None or found[0].packed is None:
        return None
    source, scale, zero = found
    n, _, h, w = shape
    packed = shape_of(source.packed)
    function = sum_bytes(packed, size, stride, padding, zero)
    result = walk.call(function, [source.packed], (n, packed[1], h, w, packed[4]), "sum_bytes", "int32")
    sums = Value(shape, packed=result, block=source.block, order=source.order, dtype="int32", fused=True)
    step = np.asarray(scale / (size[0] * size[1]))
    mean = Term(sums, step, most=255.0 * size[0] * size[1])
    return Value(shape, scaled_form=dataclasses.replace(form, terms=(mean,), shift=form.shift.reshape(())))


def multiply(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The product of blocked bytes, and of as many others or of one for each channel."""
    left, right = args
    shape = shape_of(call)
    if not isinstance(left, Value) or not isinstance(right, Value) or len(shape) != 4:
        return None
    if left.shape != shape:
        left, right = right, left
    first, second = find_bytes(left.scaled_form), find_bytes(right.scaled_form)
    if first is None or second is None or first[0].packed is None or first[0] is second[0] or left.shape != shape:
        return None
    if right.shape not in (shape, (*shape[:2], 1, 1)):
        return None
    source = first[0]
    operands = [source.packed, walk.pack(second[0], source.block, source.order)]
    shapes = [shape_of(operand) for operand in operands]
    zeros = [walk.add_weight(walk.make_weight(np.asarray([zero], np.float32))) for _, _, zero in (first, second)]
    result = walk.call(product(*shapes), [*operands, *zeros], shapes[0], "product")
    levels = Value(shape, packed=result, block=source.block, order=source.order)
    return Value(shape, scaled_form=Scaled((Term(levels, np.asarray(first[1] * second[1]), most=255.0**2),)))


def layer_norm(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The layer norm of rows of bytes, which reads them as they are."""
    value, *weights = args
    found = find_bytes(value.scaled_form) if isinstance(value, Value) else None
    if found is None or found[0].packed is not None:
        return None
    for weight in weights:
        if isinstance(weight, Value):
            settle(walk, weight)
    source, scale, _ = found
    step = walk.make_weight(np.asarray([scale], np.float32))
    return token_rows.layer_norm(walk, call, [source, *weights], step)
