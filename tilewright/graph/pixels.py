"""Tensors of pixels: convolution, pooling and what is element-wise, in blocked layouts.

The channels of blocked values lie in any order, with gaps (:mod:`tilewright.graph.channels`), which weights are
packed for: so a channel shuffle moves nothing, and channels need not divide. Grouped convolutions whose channels make
no whole blocks work on one block of all channels (channels last), where any group is a stretch of lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from tilewright.graph.channels import find_lattice, grouped_order, padded_order, permuted
from tilewright.graph.convolution import Algorithm, Convolution, is_fused, winograd_tile
from tilewright.graph.idioms import Idiom
from tilewright.graph.tokens import BINARY, UNARY, elementary, formula, shape_of
from tilewright.graph.value import Value
from tilewright.graph.weights import Recipe
from tilewright.ops import contraction, winograd

if TYPE_CHECKING:
    from tilewright.graph.rewrite import Rewriter

__all__ = ["serve"]

#: Operators that can make infinities or NaN in lanes that hold no channel, which weights of zero do not silence.
_UNSAFE = {"divide", "exp", "expm1", "one_minus_exp", "log", "log1p", "sqrt", "rsqrt"}
#: So many blocks of output channels, or more, get an empty one where they divide neither by 2 nor by 3: the best tiles
#: have two or three blocks. (The 125 of SqueezeNet's classifier, by 5 or alone, ran at 4/5 of the speed.)
_MANY_BLOCKS = 25


def serve(walk: Rewriter, name: str, call: Any, args: list[Value]) -> Value | None:
    """The operator's value in blocked layout; None where it cannot be served there.

    Args:
        walk: who emits.
        name: of Relax's operator.
        call: the call.
        args: its arguments that are tensors of the graph.
    """
    unaries = name in UNARY or isinstance(call, Idiom)
    handler = _TABLE.get(name) or (unary if unaries else binary if name in BINARY else None)
    return None if handler is None else handler(walk, call, args)


def conv2d(walk: Rewriter, call: Any, args: list[Value]) -> Value | None:
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
    out, channels, kh, kw = kernel.shape
    x, order = walk.channel_block(out), None
    if x < walk.lanes // 2:
        x, order = walk.lanes, padded_order(out, walk.lanes)
    blocks = -(-out // x)
    if blocks >= _MANY_BLOCKS and blocks % 2 and blocks % 3:
        order = padded_order(out, 2 * x)
    if order is not None:
        kernel = kernel.take(0, order)
    cb = data.block if data.packed is not None else walk.channel_block(channels)
    source = walk.packed(data, cb, data.order)
    if data.order is not None:
        kernel = kernel.take(1, data.order)
    out, channels = kernel.shape[:2]
    shape = (data.shape[0], channels, *data.shape[2:])
    known = Convolution(shape, kernel.shape, _pair(attrs.strides), _four(attrs.padding), (cb, x))
    if _pair(attrs.dilation) == (1, 1) and cb >= walk.lanes // 2 and len(known.algorithms) > 1:
        walk.convolutions[known] = walk.convolutions.get(known, 0) + 1
        algorithm = walk.algorithms.get(known, "direct")
        if algorithm != "direct":
            packed = by_winograd(walk, algorithm, known, source, kernel)
            return Value(shape_of(call), packed=packed, block=x, order=order, fused=True)
    recipe = kernel.reshape((out // x, x, channels // cb, cb, kh, kw)).transpose((0, 2, 4, 5, 3, 1))
    stride, padding, dilation = _window(attrs)
    if kh == kw == 1 and stride != (1, 1) and not any(padding):
        source, stride = sampled(walk, source, stride), (1, 1)
    function = contraction.conv2d(shape_of(source), recipe.shape, stride, padding, dilation)
    return convolved(walk, call, function, [source, walk.weight(recipe)], x, order, out // x)


def sampled(walk: Rewriter, source: Any, stride: tuple[int, int]) -> Any:
    """Every ``stride``-th pixel of a blocked tensor, so that a 1x1 convolution finds its pixels side by side.

    Copying them takes a hundredth of the convolution, which then runs as a matrix product: at 7x7 pixels twice as
    fast as with gaps between them.
    """
    from tvm import relax

    if (source, stride) not in walk.samples:
        _, _, h, w, _ = shape_of(source)
        result = relax.op.strided_slice(source, [2, 3], [0, 0], [h, w], list(stride), assume_inbound=True)
        walk.samples[source, stride] = walk.emit(result)
    return walk.samples[source, stride]


def depthwise_conv2d(walk: Rewriter, call: Any, data: Value, kernel: Recipe) -> Value:
    """Every channel by itself: blocks and their order stay."""
    x = walk.channel_block(data.block if data.channels_last else len(data.places))
    block, order = data.block, data.order
    if data.packed is None:
        block = x
    elif not data.channels_last:
        x = block
    if x < walk.lanes // 2:
        x = block = walk.lanes
        order = padded_order(data.channels, block)
    source = walk.packed(data, block, order)
    if order is not None:
        kernel = kernel.take(0, order)
    places, _, kh, kw = kernel.shape
    recipe = kernel.reshape((places // x, x, kh, kw)).transpose((0, 2, 3, 1))
    function = contraction.depthwise_conv2d(shape_of(source), recipe.shape, *_window(call.attrs))
    arguments = [source, walk.weight(recipe)]
    return convolved(walk, call, function, arguments, block, order, places // block, "depthwise_conv2d")


def grouped_conv2d(walk: Rewriter, call: Any, data: Value, kernel: Recipe) -> Value:
    """Channels by groups: on blocks where those of a group fill theirs, channels last elsewhere."""
    groups = int(call.attrs.groups)
    out, depth, kh, kw = kernel.shape
    each = out // groups
    x = walk.lanes if each > walk.lanes // 2 else each
    padded = -(-each // x) * x
    if data.packed is None:
        block = walk.channel_block(depth)
        walk.packed(data, block if block >= walk.lanes // 2 else data.channels)
    at = {c: p for p, c in enumerate(data.places)}
    members = [[at[g * depth + i] for i in range(depth)] for g in range(groups)]
    block = data.block
    blocks = len(data.places) // block
    used = [[p // block for p in group] for group in members]
    # Whole blocks are read: with more than a quarter of the channels for nothing, channels last are better.
    lattice = find_lattice(used, blocks)
    if blocks > 1 and lattice.count == 1 and 4 * lattice.length * block <= 5 * depth:
        source = walk.packed(data, block, data.order)
        inputs = [[b * block + i for b in lattice.places(g) for i in range(block)] for g in range(groups)]
        sums = (lattice.length, block)
        order_block = x
    else:
        order = data.order
        lattice = find_lattice(members, len(data.places))
        if lattice.size > 2 * depth:
            # In the order that grouped convolutions write, which a residual may be wanted in, too.
            places = grouped_order(groups, depth, walk.lanes if depth > walk.lanes // 2 else depth)
            order = places if -1 in places else None
            at = {c: p for p, c in enumerate(places) if c >= 0}
            members = [[at[g * depth + i] for i in range(depth)] for g in range(groups)]
            lattice = find_lattice(members, len(places))
        source = walk.packed(data, len(order or at), order)
        inputs = [lattice.places(g) for g in range(groups)]
        sums = (lattice.count, lattice.length)
        order_block = groups * padded
    # Where there is an input of another group, or none, the weight is zero.
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
        shape_of(source), recipe.shape, *_window(call.attrs), lattice.step, lattice.period
    )
    arguments = [source, walk.weight(recipe)]
    number = groups * padded // order_block
    return convolved(walk, call, function, arguments, order_block, order, number, "grouped_conv2d")


def convolved(
    walk: Rewriter,
    call: Any,
    function: Any,
    arguments: list[Any],
    block: int,
    order: tuple[int, ...] | None,
    blocks: int,
    name: str = "conv2d",
) -> Value:
    """The blocked result of a convolution."""
    n, _, h, w = shape = shape_of(call)
    result = walk.call(function, arguments, (n, blocks, h, w, block), name)
    return Value(shape, packed=result, block=block, order=order, fused=True)


def by_winograd(walk: Rewriter, algorithm: Algorithm, conv: Convolution, source: Any, kernel: Recipe) -> Any:
    """The convolution by F(m x m, 3 x 3), of packed data."""
    m = winograd_tile(algorithm)
    assert m is not None
    oo, cc, _, _, cb, x = conv.packed_weight
    tiling, shape = conv.tiling(m), conv.transformed_weight(m)
    a = tiling.a
    recipe = kernel.winograd(m).reshape((oo, x, cc, cb, a, a)).transpose((4, 5, 0, 2, 3, 1)).reshape(shape)
    result = (conv.data[0], oo, tiling.rows, tiling.cols, x)
    if is_fused(algorithm):
        function = winograd.fused(tiling, conv.packed_data, shape)
        return walk.call(function, [source, walk.weight(recipe)], result, f"conv_winograd{m}")
    v = walk.call(
        winograd.data_transform(tiling, conv.packed_data), [source], (a * a, cc, tiling.tiles, cb), f"winograd{m}"
    )
    between = (a * a, oo, tiling.tiles, x)
    products = walk.call(winograd.products(tiling, shape), [v, walk.weight(recipe)], between, f"products{m}")
    return walk.call(winograd.inverse_transform(tiling, oo, x), [products], result, f"inverse{m}")


def unary(walk: Rewriter, call: Any, args: list[Value]) -> Value | None:
    if args[0].packed is None or unsafe(walk, call, args[0]):
        return None
    function = formula(call)
    if function is not None and str(call.ty.dtype) == "float32":
        shape = tuple(int(d) for d in args[0].packed.ty.shape.values)
        name = call.op.name.removeprefix("relax.")
        result = elementary(walk, name, function, args[0].packed, shape)
        value = args[0]
        return Value(value.shape, packed=result, block=value.block, order=value.order, fused=value.fused)
    rest = list(call.args[1:])  # clip has scalar bounds
    return like(walk, args[0], call, [args[0].packed, *rest])


def binary(walk: Rewriter, call: Any, args: list[Value]) -> Value | None:
    # The layout of a convolution's result, which this is fused with: the other operand is converted.
    shape = shape_of(call)
    whole = (a for a in args if a.packed is not None and a.shape == shape)
    first = min(whole, key=lambda a: not a.fused, default=None)
    if first is None or len(shape) != 4 or unsafe(walk, call, first):
        return None
    operands = []
    for arg in args:
        if arg.recipe is not None:
            recipe = channel_weight(walk, arg.recipe, first)
            if recipe is None:
                return None
            operands.append(walk.weight(recipe))
        elif arg.shape == shape or (len(arg.shape) == 4 and arg.shape[1] == shape[1]):
            operands.append(walk.packed(arg, first.block, first.order))
        else:
            return None
    return like(walk, first, call, operands)


def power(walk: Rewriter, call: Any, args: list[Value]) -> Value | None:
    """Powers by square roots, which vectorise: ``x ** 0.75`` in a LRN took 10 times as long by powf."""
    from tvm import ir, relax

    exponent = call.args[1]
    number = float(exponent.value.numpy()) if isinstance(exponent, ir.Constant) and not shape_of(exponent) else 0.0
    if number not in (0.25, 0.5, 0.75) or str(call.ty.dtype) != "float32" or len(args) != 1:
        return None
    value = args[0]
    blocked_too = value.packed is not None and -1 not in value.places
    root = walk.emit(relax.op.sqrt(value.packed if blocked_too else walk.plain(value)))
    if number != 0.5:
        fourth = walk.emit(relax.op.sqrt(root))
        root = fourth if number == 0.25 else walk.emit(relax.op.multiply(root, fourth))
    if not blocked_too:
        return Value.plain(value.shape, root)
    return Value(value.shape, packed=root, block=value.block, order=value.order, fused=value.fused)


def unsafe(walk: Rewriter, call: Any, value: Value) -> bool:
    """Whether lanes without a channel may become infinite."""
    return call.op.name.removeprefix("relax.") in _UNSAFE and -1 in value.places


def channel_weight(walk: Rewriter, recipe: Recipe, value: Value) -> Recipe | None:
    """A weight of one number per channel, or a single one, so that it broadcasts over the blocked ``value``."""
    channels = value.channels
    size = 1
    for d in recipe.shape:
        size *= d
    if size == 1:
        return recipe.reshape((1, 1, 1, 1, 1))
    padded = (1,) * (4 - len(recipe.shape)) + recipe.shape
    if len(padded) != 4 or padded != (1, channels, 1, 1):
        return None
    recipe = recipe.reshape((channels,))
    if value.order is not None:
        recipe = recipe.take(0, value.order)
    return recipe.reshape((1, len(value.places) // value.block, 1, 1, value.block))


def pool(walk: Rewriter, call: Any, args: list[Value]) -> Value | None:
    from tvm import relax

    if args[0].packed is None or str(call.attrs.layout) != "NCHW":
        return None
    layout = f"NCHW{args[0].block}c"
    attrs = call.attrs
    kind = relax.op.nn.max_pool2d if call.op.name.endswith("max_pool2d") else relax.op.nn.avg_pool2d
    result = kind(
        args[0].packed,
        [int(v) for v in attrs.pool_size],
        [int(v) for v in attrs.strides],
        [int(v) for v in attrs.padding],
        [int(v) for v in attrs.dilation],
        bool(attrs.ceil_mode),
        bool(attrs.count_include_pad),
        layout,
        layout,
    )
    return Value(shape_of(call), packed=walk.emit(result), block=args[0].block, order=args[0].order)


def shuffle(walk: Rewriter, call: Any, args: list[Value]) -> Value | None:
    """Channels split, merged or transposed among themselves: only their order changes, nothing moves."""
    value, shape = args[0], shape_of(call)
    if value.packed is None or len(shape) < 4:
        return None
    order = value.order
    if call.op.name.endswith("permute_dims"):
        rank = len(shape)
        axes = call.attrs.axes
        moved = [int(a) % rank for a in axes] if axes is not None else [*reversed(range(rank))]
        if moved[0] != 0 or moved[-2:] != [rank - 2, rank - 1]:
            return None
        order = permuted(value.places, value.shape[1:-2], tuple(a - 1 for a in moved[1:-2]))
    elif (value.shape[0], *value.shape[-2:]) != (shape[0], *shape[-2:]):
        return None
    if order == tuple(range(value.channels)):
        order = None
    return Value(shape, packed=value.packed, block=value.block, order=order)


def mean(walk: Rewriter, call: Any, args: list[Value]) -> Value | None:
    axes = [int(a) % 4 for a in call.attrs.axis or ()]
    if args[0].packed is None or len(args[0].shape) != 4 or axes != [2, 3] or not call.attrs.keepdims:
        return None
    return like(walk, args[0], call, [args[0].packed], shape_of(call))


def concat(walk: Rewriter, call: Any, args: list[Value]) -> Value | None:
    from tvm import relax

    axis = int(call.attrs.axis.value if hasattr(call.attrs.axis, "value") else call.attrs.axis)
    if axis != 1 or any(len(a.shape) != 4 or a.recipe is not None for a in args):
        return None
    last = any(a.channels_last and a.block > walk.lanes for a in args)
    blocks = {a.block for a in args if a.packed is not None}
    if not last and (len(blocks) != 1 or any(len(a.places) % min(blocks) for a in args)):
        return None
    order: list[int] = []
    for arg in args:
        base = sum(c >= 0 for c in order)
        order += [c if c < 0 else c + base for c in arg.places]
    parts = [walk.packed(a, len(a.places) if last else min(blocks), a.order) for a in args]
    block = len(order) if last else min(blocks)
    natural = order == [*range(len(order))]
    result = walk.emit(relax.op.concat(parts, 4 if last else 1))
    return Value(shape_of(call), packed=result, block=block, order=None if natural else tuple(order))


def like(walk: Rewriter, value: Value, call: Any, arguments: list[Any], shape: tuple[int, ...] | None = None) -> Value:
    """The same operator on blocked operands."""
    from tvm import relax

    result = walk.emit(relax.Call(call.op, arguments, call.attrs))
    return Value(shape or value.shape, packed=result, block=value.block, order=value.order, fused=value.fused)


def _window(attrs: Any) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Stride, padding and dilation."""
    return _pair(attrs.strides), _four(attrs.padding), _pair(attrs.dilation)


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(v) for v in values)
    return first, second


def _four(values: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in values)
    return top, left, bottom, right


_Handler: TypeAlias = "Callable[[Rewriter, Any, list[Value]], Value | None]"
_TABLE: dict[str, _Handler] = {
    "nn.conv2d": conv2d,
    "nn.max_pool2d": pool,
    "nn.avg_pool2d": pool,
    "mean": mean,
    "concat": concat,
    "power": power,
    "reshape": shuffle,
    "permute_dims": shuffle,
}
