"""Convolutions on blocked values: dense, depthwise, and by groups.

A grouped convolution whose groups fill no whole blocks works on one block of all channels (channels last), where a
group is a stretch of lanes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tilewright.graph.channels import find_lattice, grouped_order, padded_order
from tilewright.graph.convolution import Convolution
from tilewright.graph.value import Value, shape_of
from tilewright.graph.weights import Recipe
from tilewright.ops import contraction

if TYPE_CHECKING:
    from tvm import ir, relax, tirx

    from tilewright.graph.rewriter import Rewriter

__all__ = ["conv2d", "read_window", "sample_pixels"]

#: From this number of output channel blocks on, an empty block is added if neither 2 nor 3 divides the number. The best
#: tiles have two or three blocks. (With tiles of 5 blocks or 1, the 125 blocks of SqueezeNet's classifier ran at 4/5 of
#: the speed.)
_MANY_BLOCKS = 25
#: Gaps that make a tensor at most so much larger are accepted for whole vectors. (MobileNetV3-large: 0.965 of the time.
#: With gaps of a third, as with 12 of 16 lanes, a text detector took 1.04 of the time.)
_LITTLE_MORE = 1.125
#: Up to so many channels of a plain image are blocks of one channel for a convolution with a stride, which needs no
#: copy. (First layers of 3 channels, untuned, on two cores of an Emerald Rapids: 3x3 of MobileNetV3 114 --> 95 us, 4x4
#: of ConvNeXt 170 --> 113, 7x7 of ResNet 816 --> 762. With a stride of 1 the copy is small beside the result, and 3x3
#: of 128x128 pixels took 184 instead of 165 us.)
_FEW = 4


def conv2d(walk: Rewriter, call: relax.Call, args: list[Value]) -> Value | None:
    """A convolution with weights. The walk remembers the ones that have other algorithms than the direct one."""
    from tvm import relax

    data, weight = args
    attrs = call.attrs
    kernel = weight.recipe
    layouts = (str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout))
    if kernel is None or layouts != ("NCHW", "OIHW", "NCHW") or kernel.dtype != "float32":
        return None
    if int(attrs.groups) == kernel.shape[0] == data.channels > 1:
        return depthwise_conv2d(walk, call, data, kernel)
    if int(attrs.groups) != 1:
        return grouped_conv2d(walk, call, data, kernel)
    image, gate = find_gate(walk, call, data, kernel)
    out, channels, kh, kw = kernel.shape
    x, order = choose_block(walk, out, kernel.source in walk.varying)
    blocks = -(-out // x)
    last = call in walk.last and walk.channel_block(out) >= walk.lanes // 2
    if last:  # gaps would be left out after the convolution, by a pass of its own
        x, order, blocks = walk.channel_block(out), None, out // walk.channel_block(out)
    if data.packed is None and (call.args[0] in walk.last or data.based_last):
        walk.pack(data, channels)
    if not last and blocks >= _MANY_BLOCKS and blocks % 2 and blocks % 3:
        order = padded_order(out, 2 * x)
    if order is not None:
        kernel = kernel.take(0, order)
    cb = data.block
    if data.packed is None:
        cb = 1 if channels <= _FEW and min(_pair(attrs.strides)) > 1 else walk.channel_block(channels)
    source = walk.pack(image, cb, data.order)
    if data.order is not None:
        kernel = kernel.take(1, data.order)
    out, channels = kernel.shape[:2]
    shape = (data.shape[0], channels, *data.shape[2:])
    known = Convolution(shape, kernel.shape, _pair(attrs.strides), _four(attrs.padding), (cb, x))
    recipe = kernel.reshape((out // x, x, channels // cb, cb, kh, kw)).transpose((0, 2, 4, 5, 3, 1))
    stride, padding, dilation = read_window(attrs)
    if kh == kw == 1 and stride != (1, 1) and not any(padding):
        source, stride = sample_pixels(walk, source, stride), (1, 1)
    function = contraction.conv2d(shape_of(source), recipe.shape, stride, padding, dilation, last)
    packed = walk.add_weight(recipe)
    if gate is not None:
        factors = walk.reshape(walk.pack(gate, cb, data.order), (1, channels // cb, 1, 1, cb, 1))
        packed = walk.emit(relax.op.multiply(packed, factors))
    arguments = [source, packed]
    if last:
        return emit_convolution(walk, call, function, arguments, out, None, 1)
    result = emit_convolution(walk, call, function, arguments, x, order, out // x)
    if dilation == (1, 1) and walk.lanes // 2 <= cb <= walk.lanes and len(known.algorithms) > 1:
        walk.convolutions[known] = walk.convolutions.get(known, 0) + 1
        name = walk.function_of(result.packed)
        walk.functions[name] = known
        if recipe.source in walk.varying:
            walk.transforming.add(name)
        else:
            walk.kernels[recipe] = kernel
    return result


def find_gate(walk: Rewriter, call: relax.Call, data: Value, kernel: Recipe) -> tuple[Value, Value | None]:
    """The image that a 1x1 convolution of ``data`` may read instead, and what its weights are then multiplied by.

    conv2d(image * gate, weight)  -->  conv2d(image, weight * gate), of one image with a gate for each channel

    That is done where there are fewer numbers in the weights than in the image. A network with squeeze and excitation
    does it in every block: the product with the image is not written.

    Args:
        walk: knows what ``data`` was computed from.
        call: the convolution.
        data: its operand.
        kernel: its weights.
    """
    out, _, kh, kw = kernel.shape
    bound = walk.bindings.get(call.args[0])
    product = getattr(getattr(bound, "op", None), "name", "") == "relax.multiply"
    if bound is None or not product or data.packed is None or kh * kw > 1 or data.shape[0] > 1 or walk.varying:
        return data, None
    n, channels, h, w = data.shape
    found = [walk.values.get(a) for a in bound.args]
    operands = [v for v in found if isinstance(v, Value) and v.recipe is None and v.dtype == data.dtype]
    images = [v for v in operands if v.shape == data.shape and v.packed is not None]
    gates = [v for v in operands if v.shape == (n, channels, 1, 1)]
    alike = len(images) == len(gates) == 1 and (images[0].block, images[0].order) == (data.block, data.order)
    if not alike or out >= h * w:
        return data, None
    return images[0], gates[0]


def choose_block(walk: Rewriter, channels: int, varying: bool) -> tuple[int, tuple[int, ...] | None]:
    """The places in a block of a convolution's result, and the order of the channels if there are gaps.

    The block divides the channels, so that no place is a gap, or it fills a vector: where that makes fewer vectors, or
    costs little memory, since LLVM takes vectors of odd lengths to pieces.

    184 channels, 16 lanes: 23 blocks of 8 or 12 of 16 with a half of the last one empty  -->  12 of 16
    120 channels, 16 lanes: 8 blocks of 15 or 8 of 16  -->  8 of 16

    Args:
        walk: knows the lanes of a vector.
        channels: of the result.
        varying: whether the weights are packed in each call. Then gaps, which this must fill with zeros, are made only
            where vectors would be more than half empty.
    """
    x, lanes = walk.channel_block(channels), walk.lanes
    vectors = -(-channels // lanes)
    fuller = vectors < channels // x or vectors * lanes <= _LITTLE_MORE * channels
    if x < lanes // 2 or (fuller and not varying):
        return lanes, padded_order(channels, lanes) if channels % lanes else None
    return x, None


def sample_pixels(walk: Rewriter, source: relax.Expr, stride: tuple[int, int]) -> relax.Expr:
    """Every ``stride``-th pixel of a blocked tensor, so that a 1x1 convolution finds its pixels side by side.

    The copy takes a hundredth of the convolution's time. The convolution then runs as a matrix product, which at 7x7
    pixels is twice as fast as reading pixels with gaps between them.
    """
    from tvm import relax

    if (source, stride) not in walk.samples:
        _, _, h, w, _ = shape_of(source)
        result = relax.op.strided_slice(source, [2, 3], [0, 0], [h, w], list(stride), assume_inbound=True)
        walk.samples[source, stride] = walk.emit(result)
    return walk.samples[source, stride]


def depthwise_conv2d(walk: Rewriter, call: relax.Call, data: Value, kernel: Recipe) -> Value:
    """A convolution of every channel by itself, which keeps the blocks and their order."""
    x = walk.channel_block(data.block if data.channels_last else len(data.places))
    block, order = data.block, data.order
    last = call in walk.last and walk.channel_block(data.channels) >= walk.lanes // 2
    if last and (data.packed is None or data.order is None):
        x, block, order = walk.channel_block(data.channels), data.channels, None
    elif data.packed is None:
        block, order = choose_block(walk, data.channels, kernel.source in walk.varying)
        x = block
    elif not data.channels_last:
        x = block
    if x < walk.lanes // 2:
        x = block = walk.lanes
        order = padded_order(data.channels, block)
    source = walk.pack(data, block, order)
    if order is not None:
        kernel = kernel.take(0, order)
    places, _, kh, kw = kernel.shape
    recipe = kernel.reshape((places // x, x, kh, kw)).transpose((0, 2, 3, 1))
    function = contraction.depthwise_conv2d(shape_of(source), recipe.shape, *read_window(call.attrs))
    arguments = [source, walk.add_weight(recipe)]
    return emit_convolution(walk, call, function, arguments, block, order, places // block, "depthwise_conv2d")


def grouped_conv2d(walk: Rewriter, call: relax.Call, data: Value, kernel: Recipe) -> Value:
    """A convolution by groups of channels: on blocks if each group fills its blocks, otherwise with channels last."""
    groups = int(call.attrs.groups)
    out, depth, kh, kw = kernel.shape
    each = out // groups
    x = walk.lanes if each > walk.lanes // 2 else each
    padded = -(-each // x) * x
    if data.packed is None:
        block = walk.channel_block(depth)
        walk.pack(data, block if block >= walk.lanes // 2 else data.channels)
    at = {c: p for p, c in enumerate(data.places)}
    members = [[at[g * depth + i] for i in range(depth)] for g in range(groups)]
    block = data.block
    blocks = len(data.places) // block
    used = [[p // block for p in group] for group in members]
    # Whole blocks are read. If they hold more than 5/4 of the channels of the group, channels last are better.
    lattice = find_lattice(used, blocks)
    if blocks > 1 and lattice.count == 1 and 4 * lattice.length * block <= 5 * depth:
        source = walk.pack(data, block, data.order)
        inputs = [[b * block + i for b in lattice.places(g) for i in range(block)] for g in range(groups)]
        sums = (lattice.length, block)
        order_block = x
    else:
        order = data.order
        lattice = find_lattice(members, len(data.places))
        if lattice.size > 2 * depth:
            # The order that grouped convolutions write: a residual may need it as well.
            places = grouped_order(groups, depth, walk.lanes if depth > walk.lanes // 2 else depth)
            order = places if -1 in places else None
            at = {c: p for p, c in enumerate(places) if c >= 0}
            members = [[at[g * depth + i] for i in range(depth)] for g in range(groups)]
            lattice = find_lattice(members, len(places))
        source = walk.pack(data, len(order or at), order)
        inputs = [lattice.places(g) for g in range(groups)]
        sums = (lattice.count, lattice.length)
        order_block = groups * padded
    # The weight of an input of another group, and that of a gap, is zero.
    channel = {p: c for c, p in at.items()}
    table = [
        c if c // depth == g else -1 for g, places in enumerate(inputs) for c in (channel.get(p, -1) for p in places)
    ]
    recipe = kernel.reshape((groups, each, depth, kh, kw)).transpose((1, 3, 4, 0, 2))
    recipe = recipe.reshape((each, kh, kw, groups * depth)).take(3, tuple(table))
    order = None
    if padded != each:
        recipe = recipe.take(0, padded_order(each, padded))
        order = grouped_order(groups, each, padded)
    recipe = recipe.reshape((padded // x, x, kh, kw, groups, *sums)).transpose((4, 0, 5, 2, 3, 6, 1))
    function = contraction.grouped_conv2d(
        shape_of(source), recipe.shape, *read_window(call.attrs), lattice.step, lattice.period
    )
    arguments = [source, walk.add_weight(recipe)]
    number = groups * padded // order_block
    return emit_convolution(walk, call, function, arguments, order_block, order, number, "grouped_conv2d")


def emit_convolution(
    walk: Rewriter,
    call: relax.Call,
    function: tirx.PrimFunc,
    arguments: list[relax.Expr],
    block: int,
    order: tuple[int, ...] | None,
    blocks: int,
    name: str = "conv2d",
) -> Value:
    """Emit the call of a convolution's function.

    Args:
        walk: emits the new graph.
        call: the call in the network.
        function: computes the convolution.
        arguments: of the function.
        block: the places in a block of the result.
        order: the channels at the places of the result.
        blocks: the number of blocks of the result.
        name: of the function in the new module.
    """
    n, _, h, w = shape = shape_of(call)
    result = walk.call(function, arguments, (n, blocks, h, w, block), name)
    return Value(shape, packed=result, block=block, order=order, fused=True)


def read_window(attrs: ir.Attrs) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Stride, padding and dilation of a convolution."""
    return _pair(attrs.strides), _four(attrs.padding), _pair(attrs.dilation)


def _pair(values: Iterable[int]) -> tuple[int, int]:
    first, second = (int(v) for v in values)
    return first, second


def _four(values: Iterable[int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in values)
    return top, left, bottom, right
