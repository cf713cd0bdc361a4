"""Convolutions and matrix products of bytes, with int32 sums."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.graph.channels import padded_order
from tilewright.graph.pixel_convolutions import read_window, sample_pixels
from tilewright.graph.quantised.dynamic import pad_bytes
from tilewright.graph.quantised.scaled import Bytes, Computed, Doubles, Scaled, Term, find_bytes
from tilewright.graph.quantised.weight_formats import choose_format
from tilewright.graph.quantised.winograd import convolve_by_winograd
from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import View
from tilewright.ops.contraction.dot_products import PAIR, QUAD, SHIFT
from tilewright.ops.contraction.quantised import byte_conv2d, byte_dense, byte_depthwise_conv2d
from tilewright.ops.quads import pack_quads

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter
    from tilewright.graph.weights import Recipe

__all__ = ["conv2d", "matmul"]

#: A weight of signed bytes around 0, its scales, and its numbers.
_Weight: TypeAlias = tuple[Value, Doubles, NDArray[np.int32]]


def _find_operand(form: Scaled | None) -> Bytes | None:
    """Unsigned bytes, their scale, and their zero point, if a sum is nothing else; None otherwise.

    The scale is 1 and the zero point 0 if the network computes them.
    """
    if _find_zero(form) is None:
        return find_bytes(form)
    assert form is not None
    single = len(form.terms) == 1 and form.terms[0].value.dtype == "uint8"
    return (form.terms[0].value, 1.0, 0) if single else None


def _find_zero(form: Scaled | None) -> relax.Expr | None:
    """The zero point of bytes that the network computes; None if it is known."""
    own = None if form is None else form.terms[0].computed
    return None if own is None or own.step is not None else own.zero


def _scaled_sums(
    call: relax.Call,
    sums: Value,
    factor: Doubles,
    numbers: NDArray[np.int32],
    zero: int,
    computed: relax.Expr | None,
) -> Value:
    """What int32 sums of bytes stand for.

    Args:
        call: the contraction in the network.
        sums: the sums.
        factor: what multiplies them.
        numbers: the weights. Axis 1 of a matrix is that of the outputs, and axis 0 of a convolution's weights.
        zero: the zero point of the data as they were multiplied.
        computed: the zero point, if the network computes it.
    """
    inputs, rest = (0, (-1,)) if numbers.ndim == 2 else (tuple(range(1, numbers.ndim)), (-1, 1, 1))
    lead = (1,) * (len(sums.shape) - len(rest))
    columns = numbers.sum(axis=inputs, dtype=np.int64).reshape(*lead, *rest)
    offset = (-zero * columns).astype(np.int32) if zero else None
    own = None if computed is None else Computed(computed, columns.astype(np.int32))
    most = 255.0 * float(np.abs(numbers).sum(axis=inputs, dtype=np.int64).max(initial=0))
    form = Scaled((Term(sums, factor, offset, own, most),))
    return Value(shape_of(call), dtype=str(call.ty.dtype), scaled_form=form)


def _find_weight(walk: Rewriter, value: Value | relax.Expr, axis: int) -> _Weight | None:
    """A weight of signed bytes around 0, its scales along ``axis``, and the weight itself.

    None if it is no such weight, for example if bytes minus the zero point are no bytes.
    """
    form = value.scaled_form if isinstance(value, Value) else None
    if form is None or not form.is_weight or form.limited:
        return None
    (term,) = form.terms
    if term.value.dtype not in ("int8", "uint8") or term.value.recipe is None:
        return None
    rank = len(term.value.shape)
    count = term.value.shape[axis]
    scales = term.scale if term.scale.ndim == rank else term.scale.reshape((1,) * rank)
    if scales.size not in (1, scales.shape[axis]):
        return None
    levels = term.value.recipe.apply(walk.arrays).astype(np.float64) + form.shift / term.scale
    whole = np.rint(levels)
    if np.abs(levels - whole).max(initial=0.0) > 1e-6 or whole.min(initial=0) < -128 or whole.max(initial=0) > 127:
        return None
    numbers = whole.astype(np.int8)
    own = term.value
    if term.value.dtype != "int8" or np.any(form.shift):
        own = Value(term.value.shape, recipe=walk.make_weight(numbers), dtype="int8")
    return own, np.broadcast_to(scales.reshape(-1), (count,)).astype(np.float64), numbers.astype(np.int32)


def conv2d(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """A convolution of bytes, with int32 sums."""
    attrs = call.attrs
    data, weight = args
    layouts = (str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout))
    found = _find_operand(data.scaled_form) if isinstance(data, Value) else None
    known = _find_weight(walk, weight, 0) if found is not None else None
    if found is None or known is None or layouts != ("NCHW", "OIHW", "NCHW"):
        return None
    computed = _find_zero(data.scaled_form)
    if int(attrs.groups) != 1:
        return _depthwise_conv2d(walk, call, found, known, computed)
    source, scale, zero = found
    own, scales, numbers = known
    kernel = own.recipe
    assert kernel is not None
    out, channels, kh, kw = kernel.shape
    x, order = walk.channel_block(out), None
    if x not in (walk.lanes, walk.lanes // 2) or x % QUAD:
        x, order = walk.lanes, padded_order(out, walk.lanes)
        kernel = kernel.take(0, order)
    stride, padding, dilation = read_window(attrs)
    block, places = source.block, source.order
    patches = None if any(padding) or dilation != (1, 1) else _cut_patches(walk, source, kernel, stride)
    if patches is not None:
        source, kernel, stride = patches, kernel.reshape((kernel.shape[0], channels * kh * kw, 1, 1)), (1, 1)
        kh, kw, block, places = 1, 1, source.block, None
    elif source.packed is None or block % QUAD:
        block = max((d for d in range(QUAD, walk.lanes + 1, QUAD) if channels % d == 0), default=0)
        places = None
        if not block:
            block = QUAD if channels < walk.lanes else walk.lanes
            places = padded_order(channels, block)
    if places is not None and len(places) == block and source.packed is None:
        _pack_image(walk, source, block, places)
    packed = walk.pack(source, block, places)
    if places is not None:
        kernel = kernel.take(1, places)
    out, channels = kernel.shape[:2]
    shape = shape_of(call)
    n, _, h, w = shape
    factor = (scale * scales).reshape(1, -1, 1, 1)
    if computed is not None and any(padding):
        packed, padding = pad_bytes(walk, packed, padding, computed), (0, 0, 0, 0)
    zero_around = zero if any(padding) else 0
    quick = convolve_by_winograd(walk, packed, kernel, x, (stride, padding, dilation), zero_around)
    if quick is not None:
        sums = Value(shape, packed=quick, block=x, order=order, dtype="int32", fused=True)
        return _scaled_sums(call, sums, factor, numbers, zero, computed)
    recipe = kernel.reshape((out // x, x, channels // block, block // QUAD, QUAD, kh, kw))
    recipe = recipe.transpose((0, 2, 5, 6, 3, 1, 4))
    if kh == kw == 1 and stride != (1, 1) and not any(padding):
        packed, stride = sample_pixels(walk, packed, stride), (1, 1)
    recipe, operands = choose_format(walk, recipe, n * h * w)
    window = (stride, padding, dilation)
    function = byte_conv2d(shape_of(packed), recipe.shape, *window, zero_around, operands)
    result = walk.call(function, [packed, walk.add_weight(recipe)], (n, out // x, h, w, x), "byte_conv2d", "int32")
    sums = Value(shape, packed=result, block=x, order=order, dtype="int32", fused=True)
    zero -= SHIFT if operands == "shifted" else 0
    return _scaled_sums(call, sums, factor, numbers, zero, computed)


def _pack_image(walk: Rewriter, source: Value, block: int, places: tuple[int, ...]) -> None:
    """Pack an image whose channels fill one block, with gaps after them, in one pass."""
    if (block, places) in source.copies or not walk.make_whole_view(source).in_order:
        return
    n, _, h, w = source.shape
    planes = walk.reshape(source.base, source.shape)
    copy = walk.call(pack_quads(source.shape, block), [planes], (n, 1, h, w, block), "pack_quads", "uint8")
    source.packed, source.block, source.order = copy, block, places
    source.copies[block, places] = copy


def _cut_patches(walk: Rewriter, source: Value, kernel: Recipe, stride: tuple[int, int]) -> Value | None:
    """The patches that a kernel takes from an image of few channels, as channels of pixels; None if they overlap.

    Then a 1x1 kernel computes the same. Channels of the image would have to be completed to quads.

        x[n, c, i * kh + a, j * kw + b]  -->  y[n, (c * kh + a) * kw + b, i, j]

    Args:
        walk: the rewriter. Only with its ``pairs`` an image is cut.
        source: the image.
        kernel: its shape is ``(O, C, kh, kw)``.
        stride: of rows and columns.
    """
    from tvm import relax

    n, channels, height, width = source.shape
    kh, kw = kernel.shape[2:]
    fits = stride == (kh, kw) and height % kh == width % kw == 0
    block = max((d for d in range(QUAD, walk.lanes + 1, QUAD) if kw % d == 0), default=0)
    if not (walk.pairs and fits and block) or source.packed is not None or channels >= QUAD:
        return None
    rows, cols, chunks = height // kh, width // kw, kw // block
    cut = walk.reshape(walk.make_plain(source), (n, channels, rows, kh, cols, chunks, block))
    moved = walk.emit(relax.op.permute_dims(cut, [0, 1, 3, 5, 2, 4, 6]))
    count = channels * kh * kw
    packed = walk.reshape(moved, (n, count // block, rows, cols, block))
    return Value((n, count, rows, cols), packed=packed, block=block, dtype="uint8")


def _depthwise_conv2d(
    walk: Rewriter, call: relax.Call, data: Bytes, weight: _Weight, computed: relax.Expr | None
) -> Value | None:
    """A convolution of every channel by itself, which keeps the blocks and their order; None for other groups."""
    source, scale, zero = data
    own, scales, numbers = weight
    kernel = own.recipe
    assert kernel is not None
    if not int(call.attrs.groups) == kernel.shape[0] == source.channels:
        return None
    x, order = source.block, source.order
    if source.packed is None or x not in (walk.lanes, walk.lanes // 2):
        x, order = walk.channel_block(source.channels), None
        if x not in (walk.lanes, walk.lanes // 2):
            x, order = walk.lanes, padded_order(source.channels, walk.lanes)
    packed = walk.pack(source, x, order)
    if order is not None:
        kernel = kernel.take(0, order)
    places, _, kh, kw = kernel.shape
    together = PAIR if walk.pairs else QUAD
    kernel = kernel.take(2, padded_order(kh, together)) if kh % together else kernel
    recipe = kernel.reshape((places // x, x, -(-kh // together), together, kw)).transpose((0, 2, 4, 1, 3))
    if together == PAIR:
        recipe = walk.make_weight(recipe.apply({**walk.arrays, **walk.made}).astype(np.int16))
    stride, padding, dilation = read_window(call.attrs)
    if computed is not None and any(padding):
        packed, padding = pad_bytes(walk, packed, padding, computed), (0, 0, 0, 0)
    function = byte_depthwise_conv2d(shape_of(packed), recipe.shape, kh, stride, padding, dilation, zero)
    shape = shape_of(call)
    n, _, h, w = shape
    arguments = [packed, walk.add_weight(recipe)]
    result = walk.call(function, arguments, (n, places // x, h, w, x), "byte_depthwise_conv2d", "int32")
    sums = Value(shape, packed=result, block=x, order=order, dtype="int32", fused=True)
    return _scaled_sums(call, sums, (scale * scales).reshape(1, -1, 1, 1), numbers, zero, computed)


def matmul(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The product of rows of bytes with a matrix of weights, with int32 sums."""
    left, right = args
    found = _find_operand(left.scaled_form) if isinstance(left, Value) else None
    known = _find_weight(walk, right, 1) if found is not None and len(right.shape) == 2 else None
    if found is None or known is None:
        return None
    source, scale, zero = found
    own, scales, numbers = known
    kernel = own.recipe
    assert kernel is not None
    depth, n = kernel.shape
    if depth % QUAD or n < 2:
        return None
    x = walk.channel_block(n)
    x = x if x in (walk.lanes, walk.lanes // 2) and x % QUAD == 0 else walk.lanes
    view = walk.make_whole_view(source)
    if not view.in_order:
        walk.materialise(source)
    rows = math.prod(source.shape) // depth
    columns = kernel if n % x == 0 else kernel.take(1, padded_order(n, x))
    recipe = columns.reshape((depth // QUAD, QUAD, -(-n // x), x)).transpose((2, 0, 3, 1))
    recipe, operands = choose_format(walk, recipe, rows)
    function = byte_dense(rows, recipe.shape, n, operands)
    result = walk.call(
        function, [walk.reshape(source.base, (rows, depth)), walk.add_weight(recipe)], (rows, n), "byte_dense", "int32"
    )
    shape = shape_of(call)
    sums = Value(shape, base=result, view=View.of((rows, n)).reshape(shape), dtype="int32", fresh=True)
    ones = (1,) * (len(shape) - 1)
    computed = _find_zero(left.scaled_form)
    zero -= SHIFT if operands == "shifted" else 0
    return _scaled_sums(call, sums, (scale * scales).reshape(*ones, -1), numbers, zero, computed)
