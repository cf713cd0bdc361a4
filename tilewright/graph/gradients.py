"""Gradients of convolutions and norms: those of images are computed on blocked tensors.

An importer leaves calls of marked functions on plain tensors. Each becomes a call of a function of blocked tensors:

    weight_gradient(data, dy)       -->  a sum over the batch and all pixels, which writes the plain gradient;
                                         or sums over tiles, by Winograd's algorithm
    channel_statistics(images)      -->  two sums for each channel
    depthwise_data_gradient(dy, weight) -->  a function in the blocks of the gradient, which keeps them
    phases(phase, ...)              -->  images that are put together of the results of a few convolutions
    activation_gradient(dy, data)   -->  an element-wise function in the layout of its operands
    gelu_in_training(data), gelu_slope(data)             -->  element-wise functions of rows
    layer_norm_gradient(dy, data, mean, inverse, scale)  -->  a function over rows, with the machine's lanes
    norm_sums(dy, data, mean, inverse)                   -->  two sums over all tokens
    log_sum_exp(scores), row_moments(data)               -->  functions over rows
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from tilewright.graph.again import compute_again
from tilewright.graph.channels import padded_order
from tilewright.graph.convolution import Convolution
from tilewright.graph.idioms import Formula
from tilewright.graph.pixel_convolutions import choose_block
from tilewright.graph.token_rows import NARROWEST
from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import Atom, View, extent
from tilewright.ops import winograd
from tilewright.ops.depthwise_gradient import DATA_GRADIENT, DataGradient, data_gradient
from tilewright.ops.elementwise.elementary import gelu_in_training, gelu_slope
from tilewright.ops.elementwise.expression import GELU, GELU_SLOPE, apply_formula
from tilewright.ops.elementwise.gradients import (
    ACTIVATION_GRADIENT,
    ActivationGradient,
    activation_gradient,
)
from tilewright.ops.elementwise.phases import PHASES, Phases, interleave, plain_interleave, spread
from tilewright.ops.mark import take_mark
from tilewright.ops.pixel_sums import (
    NORM_SUMS,
    STATISTICS,
    WEIGHT_GRADIENT,
    Statistics,
    WeightGradient,
    channel_statistics,
    channel_sum,
    depthwise_gradient,
    norm_sums,
    weight_gradient,
)
from tilewright.ops.rows import (
    LAYER_NORM_GRADIENT,
    LOG_SUM_EXP,
    ROW_MOMENTS,
    layer_norm_gradient,
    log_sum_exp,
    row_moments,
)

if TYPE_CHECKING:
    from tvm import relax, tirx

    from tilewright.graph.rewriter import Rewriter

__all__ = ["serve", "sum_channels"]

#: The length of a block, and the order of channels.
_Layout: TypeAlias = "tuple[int, tuple[int, ...] | None]"


def serve(walk: Rewriter, call: relax.Call) -> Value | None:
    """The result of a call of a marked function; None if the call is another one, or has no blocked form.

    Args:
        walk: emits the new graph.
        call: of ``relax.call_tir``.
    """
    mark = take_mark(walk.builder.get()[call.args[0]])[1]
    found = [walk.values.get(argument) for argument in call.args[1].fields]
    operands = [value for value in found if isinstance(value, Value) and value.dtype == "float32"]
    handler = _TABLE.get(mark.kind)
    if handler is None or len(operands) < len(found):
        return None
    if mark.kind == STATISTICS and len(operands) > 1:
        again = compute_again(walk, call.args[1].fields[0])
        return _serve_statistics(walk, mark.detail, operands, again)
    return handler(walk, mark.detail, operands)


def sum_channels(walk: Rewriter, call: relax.Call, args: list[Value]) -> Value | None:
    """The sum of each channel of blocked images, or of each image's; None for others, or over other axes."""
    from tvm import relax

    value = args[0]
    axes = sorted(int(a) % len(value.shape) for a in call.attrs.axis or ())
    if value.packed is None or len(value.shape) != 4 or value.dtype != "float32":
        return None
    if axes == [2, 3] and call.attrs.keepdims:
        result = walk.emit(relax.op.sum(value.packed, axes, keepdims=True))
        return Value((*value.shape[:2], 1, 1), packed=result, block=value.block, order=value.order, fused=value.fused)
    if axes != [0, 2, 3]:
        return None
    block, order = _layout(walk, value, value.channels)
    source = walk.pack(value, block, order)
    shape = tuple(int(d) for d in source.ty.shape.values)
    result = walk.call(channel_sum(shape, value.channels), [source], (value.channels,), "channel_sum")
    kept = (1, value.channels, 1, 1) if call.attrs.keepdims else (value.channels,)
    return Value.plain(kept, walk.reshape(result, kept))


def _serve_weight_gradient(walk: Rewriter, detail: str, operands: list[Value]) -> Value:
    data, dy = operands
    form = WeightGradient.parse(detail)
    out, depth = form.weight[:2]
    if form.groups == out == data.channels > 1:
        block, order = _layout(walk, data if data.packed is not None else dy, out)
        sources = [walk.pack(value, block, order) for value in operands]
        function = depthwise_gradient(form, tuple(int(d) for d in sources[0].ty.shape.values))
    else:
        inside = (depth, out // form.groups) if form.groups > 1 else (data.channels, out)
        layouts = [_layout(walk, v, count, form.groups) for v, count in zip(operands, inside, strict=True)]
        sources = [walk.pack(value, *layout) for value, layout in zip(operands, layouts, strict=True)]
        shapes = [tuple(int(d) for d in source.ty.shape.values) for source in sources]
        conv = Convolution(form.data, form.weight, form.stride, form.padding, (shapes[0][4], shapes[1][4]))
        whole = conv.packed_data == shapes[0] and conv.packed_weight[0] == shapes[1][1]
        if whole and form.groups == 1 and form.dilation == (1, 1) and conv.winograd_pays:
            return _emit_winograd(walk, conv, sources)
        function = weight_gradient(form, shapes[0], shapes[1])
    return Value.plain(form.weight, walk.call(function, sources, form.weight, WEIGHT_GRADIENT))


def _emit_winograd(walk: Rewriter, conv: Convolution, sources: list[relax.Expr]) -> Value:
    """The gradient of a 3x3 convolution's weights by Winograd's F(4x4, 3x3).

    Args:
        walk: emits the new graph.
        conv: the convolution. Channels lie in order, and blocks divide them.
        sources: the data and the gradient of the result, in blocks.
    """
    m, tiling = 4, conv.tiling(4)
    (_, cc, _, _, cb), (oo, x) = conv.packed_data, (conv.packed_weight[0], conv.blocks[1])
    squares, blocks = tiling.a**2, ((cc, cb), (oo, x))
    packed_gradient = tuple(int(d) for d in sources[1].ty.shape.values)
    stages = [
        (winograd.data_transform(tiling, conv.packed_data), sources[:1], (squares, cc, tiling.tiles, cb), "winograd4"),
        (winograd.spread_gradient(tiling, packed_gradient), sources[1:], (squares, oo, tiling.tiles, x), "spread4"),
    ]
    both = [walk.call(*stage) for stage in stages]
    sums = walk.call(winograd.sum_tiles(tiling, *blocks), both, (squares, cc, oo, cb, x), "tile_sums4")
    gathered = walk.call(winograd.gather_kernels(m, *blocks), [sums], (oo, cc * cb, 3, 3, x), "gather4")
    # The gradient may be wanted in another order, such as with its channels last. A view leaves one move for both.
    outer, depth, height, width, lanes = dims = tuple(Atom(d) for d in (oo, cc * cb, 3, 3, x))
    view = View(tuple((atom,) for atom in dims), ((outer, lanes), (depth,), (height,), (width,)))
    return Value(conv.weight, base=gathered, view=view)


def _serve_data_gradient(walk: Rewriter, detail: str, operands: list[Value]) -> Value:
    """The gradient of a depthwise convolution's data. It keeps the blocks of what it reads if these are vectors."""
    from tvm import relax

    dy, weight = operands
    form = DataGradient.parse(detail)
    channels = form.data[1]
    block, order = choose_block(walk, channels, varying=True)
    if weight.recipe is not None and dy.packed is not None and walk.lanes // 2 <= dy.block <= walk.lanes:
        block, order = dy.block, dy.order
    source = walk.pack(dy, block, order)
    n, blocks, *_ = shape_of(source)
    if weight.recipe is not None:
        recipe = weight.recipe if order is None else weight.recipe.take(0, order)
        packed = walk.add_weight(recipe.reshape((blocks, block, *form.kernel)).transpose((0, 2, 3, 1)))
    else:  # it is computed; its channels lie in order, and gaps are at the end
        tensor, gaps = walk.make_plain(weight), blocks * block - channels
        if gaps:
            tensor = walk.emit(relax.op.nn.pad(tensor, [0, gaps, *[0] * 6]))
        packed = walk.emit(relax.op.permute_dims(walk.reshape(tensor, (blocks, block, *form.kernel)), [0, 2, 3, 1]))
    shape = (n, blocks, *form.data[2:], block)
    result = walk.call(data_gradient(form, shape_of(source)), [source, packed], shape, DATA_GRADIENT)
    return Value(form.data, packed=result, block=block, order=order, fused=True)


def _serve_statistics(walk: Rewriter, detail: str, operands: list[Value], again: Value | None = None) -> Value:
    from tvm import relax

    form = Statistics.parse(detail)
    images = operands[: 2 if form.products else 1]
    channels = form.shape[1]
    first = next((value for value in images if value.packed is not None), images[0])
    layout = _layout(walk, first, channels)
    fusable = again is not None and channels % layout[0] == 0
    if again is not None and fusable:
        images[0] = again
    sources = [walk.pack(value, *layout) for value in images]
    shape = tuple(int(d) for d in sources[0].ty.shape.values)
    if form.products:
        mean, gaps = walk.make_plain(operands[2]), shape[1] * shape[4] - channels
        sources.append(walk.emit(relax.op.nn.pad(mean, [0, gaps])) if gaps else mean)
    function = channel_statistics(form, shape, fusable)
    return Value.plain((2, channels), walk.call(function, sources, (2, channels), STATISTICS))


def _serve_phases(walk: Rewriter, detail: str, operands: list[Value]) -> Value:
    form = Phases.parse(detail)
    if form.joined:
        return _serve_joined(walk, form, operands[0])
    first = next((value for value in operands if value.packed is not None), None)
    if first is None:
        plain = [walk.make_plain(value) for value in operands]
        return Value.plain(form.shape, walk.call(plain_interleave(form, marked=False), plain, form.shape, PHASES))
    block, order = first.block, first.order
    sources = [walk.pack(value, block, order) for value in operands]
    n, _, height, width = form.shape
    blocks = len(first.places) // block
    result = walk.call(interleave(form, blocks, block), sources, (n, blocks, height, width, block), PHASES)
    return Value(form.shape, packed=result, block=block, order=order, fused=True)


def _serve_joined(walk: Rewriter, form: Phases, phases: Value) -> Value:
    natural = tuple(range(phases.channels))
    if phases.packed is None or phases.places[: phases.channels] != natural:
        plain = walk.make_plain(phases)
        return Value.plain(form.shape, walk.call(plain_interleave(form, marked=False), [plain], form.shape, PHASES))
    # A block of the result lies in one block of the tensor, so that vectors are read whole.
    n, channels, height, width = form.shape
    block = math.gcd(channels, phases.block)
    if block < walk.lanes // 2:  # few channels would leave most of a vector empty
        function = spread(form, len(phases.places), phases.block, None)
        return Value.plain(form.shape, walk.call(function, [phases.packed], form.shape, PHASES))
    shape = (n, channels // block, height, width, block)
    result = walk.call(spread(form, len(phases.places), phases.block, block), [phases.packed], shape, PHASES)
    return Value(form.shape, packed=result, block=block, fused=True)


def _serve_activation(walk: Rewriter, detail: str, operands: list[Value]) -> Value:
    form, shape = ActivationGradient.parse(detail), operands[1].shape
    whole = (value for value in operands if value.packed is not None and value.shape == shape)
    first = min(whole, key=lambda value: not value.fused, default=None)
    if first is None or len(shape) != 4:
        plain = [walk.make_plain(value) for value in operands]
        function = activation_gradient(form, operands[0].shape, shape, marked=False)
        return Value.plain(shape, walk.call(function, plain, shape, form.name))
    sources = [walk.pack(value, first.block, first.order) for value in operands]
    dy, blocked = (tuple(int(d) for d in source.ty.shape.values) for source in sources)
    result = walk.call(activation_gradient(form, dy, blocked, marked=False), sources, blocked, form.name)
    return Value(shape, packed=result, block=first.block, order=first.order, fused=first.fused)


def _serve_formula(formula: Formula, name: str, walk: Rewriter, detail: str, operands: list[Value]) -> Value:
    """A function in the order of its data, in rows, so that a product may compute it for what it stores."""
    value = operands[0]
    view = walk.make_whole_view(value)
    *rows, columns = [dim for dim in view.base if extent(dim) > 1] or list(view.base)
    view = View((tuple(atom for dim in rows for atom in dim), columns), view.dims)
    function = apply_formula(formula, view.base_shape, name)
    result = walk.call(function, [walk.reshape(value.base, view.base_shape)], view.base_shape, name)
    return Value(value.shape, base=result, view=view, fresh=value.fresh)


def _layout(walk: Rewriter, value: Value, channels: int, groups: int = 1) -> _Layout:
    """The block and the order in which a sum over pixels reads a tensor, which are its own if possible.

    Args:
        walk: emits the new graph.
        value: the tensor.
        channels: that a block must divide, or fill with gaps behind the last if there are no groups.
        groups: of channels.
    """
    order = value.order
    natural = order is None or (groups == 1 and order[:channels] == tuple(range(channels)))
    if (
        value.packed is not None
        and natural
        and value.block <= walk.lanes
        and (groups == 1 or channels % value.block == 0)
    ):
        return value.block, order
    block = walk.channel_block(channels)
    # The inputs of the first layer are few, and are no vectors. All other blocks are.
    if groups > 1 or block >= walk.lanes // 2 or channels < walk.lanes // 2:
        return block, None
    return walk.lanes, padded_order(channels, walk.lanes)


def _serve_layer_norm(walk: Rewriter, detail: str, operands: list[Value]) -> Value | None:
    rows, columns = operands[0].shape
    if columns < NARROWEST:
        return None
    sources = [walk.make_plain(value) for value in operands]
    function = layer_norm_gradient((rows, columns), walk.lanes)
    return Value.plain((rows, columns), walk.call(function, sources, (rows, columns), LAYER_NORM_GRADIENT))


def _serve_norm_sums(walk: Rewriter, detail: str, operands: list[Value]) -> Value | None:
    rows, columns = operands[0].shape
    x = walk.channel_block(columns)
    if x < walk.lanes // 2:
        return None
    sources = [walk.make_plain(value) for value in operands]
    return Value.plain((2, columns), walk.call(norm_sums(rows, columns, x), sources, (2, columns), NORM_SUMS))


def _serve_log_sum_exp(walk: Rewriter, detail: str, operands: list[Value]) -> Value | None:
    return _emit_row_numbers(walk, operands[0], lambda shape: log_sum_exp(shape, walk.lanes), 1, LOG_SUM_EXP)


def _serve_moments(walk: Rewriter, detail: str, operands: list[Value]) -> Value | None:
    epsilon = float(detail)
    result = _emit_row_numbers(walk, operands[0], lambda shape: row_moments(shape, walk.lanes, epsilon), 2, ROW_MOMENTS)
    if result is not None:
        walk.moments[walk.function_of(result.base)] = epsilon
    return result


def _emit_row_numbers(
    walk: Rewriter, data: Value, make: Callable[[tuple[int, int]], tirx.PrimFunc], count: int, name: str
) -> Value | None:
    """A call of a function that gives ``count`` numbers for each row; None if rows are too short for vectors."""
    rows, columns = data.shape
    if columns < NARROWEST:
        return None
    result = walk.call(make((rows, columns)), [walk.make_plain(data)], (rows, count), name)
    return Value.plain((rows, count), result)


_Handler: TypeAlias = "Callable[[Rewriter, str, list[Value]], Value | None]"
#: What serves each marked function, by the kind of its mark.
_TABLE: dict[str, _Handler] = {
    WEIGHT_GRADIENT: _serve_weight_gradient,
    DATA_GRADIENT: _serve_data_gradient,
    STATISTICS: _serve_statistics,
    PHASES: _serve_phases,
    ACTIVATION_GRADIENT: _serve_activation,
    GELU: partial(_serve_formula, gelu_in_training, GELU),
    GELU_SLOPE: partial(_serve_formula, gelu_slope, GELU_SLOPE),
    LAYER_NORM_GRADIENT: _serve_layer_norm,
    NORM_SUMS: _serve_norm_sums,
    LOG_SUM_EXP: _serve_log_sum_exp,
    ROW_MOMENTS: _serve_moments,
}
