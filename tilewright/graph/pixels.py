"""Tensors of pixels: operators in blocked layouts.

The channels of a blocked value lie in any order, with gaps (:mod:`tilewright.graph.channels`), and weights are packed
to match. So a channel shuffle moves nothing, and the block length need not divide the channels. Convolutions are in
:mod:`tilewright.graph.pixel_convolutions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from tilewright.graph.bf16_products import conv2d
from tilewright.graph.channels import permuted
from tilewright.graph.gradients import sum_channels
from tilewright.graph.idioms import Idiom
from tilewright.graph.parts import strided_slice
from tilewright.graph.tokens import BINARY, UNARY, emit_elementary, find_formula
from tilewright.graph.value import Value, shape_of
from tilewright.graph.weights import Recipe

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["serve"]

#: Operators that can make an infinity or NaN in the lane of a gap. A weight of zero does not cancel these.
_UNSAFE = {"divide", "exp", "expm1", "one_minus_exp", "log", "log1p", "sqrt", "rsqrt"}


def serve(walk: Rewriter, name: str, call: relax.Call | Idiom, args: list[Value]) -> Value | None:
    """The operator's value in blocked layout; None if the operator has none there.

    Args:
        walk: emits the new graph.
        name: of Relax's operator, without ``relax.``.
        call: the call.
        args: the arguments that are tensors of the graph; of an operator of two operands also constants of one number.
    """
    unaries = name in UNARY or isinstance(call, Idiom)
    handler = _TABLE.get(name) or (unary if unaries else binary if name in BINARY else None)
    return None if handler is None else handler(walk, call, args)


def unary(walk: Rewriter, call: relax.Call | Idiom, args: list[Value]) -> Value | None:
    """An element-wise operator of one blocked operand."""
    if args[0].packed is None or spoils_gaps(call, args[0]):
        return None
    function = find_formula(call)
    if function is not None and str(call.ty.dtype) == "float32":
        shape = tuple(int(d) for d in args[0].packed.ty.shape.values)
        name = call.op.name.removeprefix("relax.")
        result = emit_elementary(walk, name, function, args[0].packed, shape)
        value = args[0]
        return Value(value.shape, packed=result, block=value.block, order=value.order, fused=value.fused)
    rest = list(call.args[1:])  # clip has scalar bounds
    return emit_blocked(walk, args[0], call, [args[0].packed, *rest])


def binary(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """An element-wise operator of two operands, one of which is blocked. The other may be one number."""
    from tvm import relax

    # The layout is that of a convolution's result, into which this is fused. The other operand is converted.
    shape = shape_of(call)
    whole = (a for a in args if isinstance(a, Value) and a.packed is not None and a.shape == shape)
    first = min(whole, key=lambda a: not a.fused, default=None)
    if first is None or len(shape) != 4 or _are_tokens(args, shape):
        return None
    # A gap holds a finite number, which stays finite when it is divided by a constant.
    if spoils_gaps(call, first) and isinstance(args[1], Value):
        return None
    operands = []
    for arg in args:
        if not isinstance(arg, Value):
            operands.append(relax.const(arg.value.numpy().reshape(()), "float32"))
        elif arg.recipe is not None:
            recipe = channel_weight(walk, arg.recipe, first)
            if recipe is None:
                return None
            operands.append(walk.add_weight(recipe))
        elif arg.shape == shape or (len(arg.shape) == 4 and arg.shape[1] == shape[1]):
            operands.append(walk.pack(arg, first.block, first.order))
        else:
            return None
    return emit_blocked(walk, first, call, operands)


def _are_tokens(args: list[Value | relax.Expr], shape: tuple[int, ...]) -> bool:
    """Whether a product of tokens is an operand, and all images have their channels last as the tokens do.

    The operator is then fused into that product.
    """
    whole = [a for a in args if isinstance(a, Value) and a.recipe is None and a.shape == shape]
    last = all(a.based_last or (a.channels_last and a.order is None) for a in whole)
    return last and any(a.fresh and a.packed is None for a in whole)


def power(walk: Rewriter, call: relax.Call, args: list[Value]) -> Value | None:
    """The powers 1/4, 1/2 and 3/4 by square roots, which LLVM vectorises. In an LRN, powf took 10 times as long."""
    from tvm import ir, relax

    exponent = call.args[1]
    number = float(exponent.value.numpy()) if isinstance(exponent, ir.Constant) and not shape_of(exponent) else 0.0
    if number not in (0.25, 0.5, 0.75) or str(call.ty.dtype) != "float32" or len(args) != 1:
        return None
    value = args[0]
    blocked_too = value.packed is not None and -1 not in value.places
    root = walk.emit(relax.op.sqrt(value.packed if blocked_too else walk.make_plain(value)))
    if number != 0.5:
        fourth = walk.emit(relax.op.sqrt(root))
        root = fourth if number == 0.25 else walk.emit(relax.op.multiply(root, fourth))
    if not blocked_too:
        return Value.plain(value.shape, root)
    return Value(value.shape, packed=root, block=value.block, order=value.order, fused=value.fused)


def spoils_gaps(call: relax.Call | Idiom, value: Value) -> bool:
    """Whether the operator may write an infinity or NaN into the gaps of a blocked value."""
    return call.op.name.removeprefix("relax.") in _UNSAFE and -1 in value.places


def channel_weight(walk: Rewriter, recipe: Recipe, value: Value) -> Recipe | None:
    """The weight in the shape that broadcasts over the blocked ``value``.

    None if the weight is neither one number nor one number a channel.
    """
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


def pool(walk: Rewriter, call: relax.Call, args: list[Value]) -> Value | None:
    """A maximum or average over windows of a blocked operand."""
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


def shuffle(walk: Rewriter, call: relax.Call, args: list[Value]) -> Value | None:
    """A reshape or transposition of the channels alone: their order changes, and nothing is moved.

    reshape (n, c, h, w) --> (n, c / block, block, h, w), permute --> (n, c / block, h, w, block) is the blocked tensor.
    """
    value, shape = args[0], shape_of(call)
    if value.packed is None or len(shape) < 4:
        return None
    order = value.order
    if call.op.name.endswith("permute_dims"):
        rank = len(shape)
        axes = call.attrs.axes
        moved = [int(a) % rank for a in axes] if axes is not None else [*reversed(range(rank))]
        if moved == [0, 1, 3, 4, 2] and (value.block, value.order) == (value.shape[2], None):
            return Value.plain(shape, value.packed, value.dtype)  # the blocks themselves
        if moved == [0, 2, 3, 1] and order is None and not value.channels_last:
            # One pass moves whole blocks. By way of the plain layout there would be two, number by number.
            return Value.plain(shape, walk.reshape(walk.reblock(value.packed, value.channels), shape))
        if moved[0] != 0 or moved[-2:] != [rank - 2, rank - 1]:
            return None
        order = permuted(value.places, value.shape[1:-2], tuple(a - 1 for a in moved[1:-2]))
    elif (value.shape[0], *value.shape[-2:]) != (shape[0], *shape[-2:]):
        return None
    if order == tuple(range(value.channels)):
        order = None
    return Value(shape, packed=value.packed, block=value.block, order=order)


def mean(walk: Rewriter, call: relax.Call, args: list[Value]) -> Value | None:
    """The mean over all pixels of a blocked operand."""
    from tvm import relax

    axes = sorted(int(a) % 4 for a in call.attrs.axis or ())
    value = args[0]
    if value.packed is None and value.based_last:
        walk.pack(value, value.channels)
    if value.packed is None or len(value.shape) != 4 or axes != [2, 3] or not call.attrs.keepdims:
        return None
    # The axes of the call may be counted from the end, where a blocked operand has one axis more.
    result = walk.emit(relax.op.mean(value.packed, axes, keepdims=True))
    return Value(shape_of(call), packed=result, block=value.block, order=value.order, fused=value.fused)


def concat(walk: Rewriter, call: relax.Call, args: list[Value]) -> Value | None:
    """A concatenation along the channels, block by block, or with channels last."""
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
    parts = [walk.pack(a, len(a.places) if last else min(blocks), a.order) for a in args]
    block = len(order) if last else min(blocks)
    natural = order == [*range(len(order))]
    result = walk.emit(relax.op.concat(parts, 4 if last else 1))
    return Value(shape_of(call), packed=result, block=block, order=None if natural else tuple(order))


def resize(walk: Rewriter, call: relax.Call, args: list[Value]) -> Value | None:
    """A blocked operand with more or fewer pixels."""
    from tvm import relax

    value, attrs = args[0], call.attrs
    if value.packed is None or len(value.shape) != 4 or str(attrs.layout) != "NCHW" or str(call.ty.dtype) != "float32":
        return None
    result = relax.op.image.resize2d(
        value.packed,
        call.args[1],
        [float(number) for number in attrs.roi],
        f"NCHW{value.block}c",
        str(attrs.method),
        str(attrs.coordinate_transformation_mode),
        str(attrs.rounding_method),
        float(attrs.cubic_alpha),
        int(attrs.cubic_exclude),
        float(attrs.extrapolation_value),
    )
    return Value(shape_of(call), packed=walk.emit(result), block=value.block, order=value.order)


def emit_blocked(walk: Rewriter, value: Value, call: relax.Call, arguments: list[relax.Expr]) -> Value:
    """Emit the operator of ``call`` on blocked ``arguments``. The result has the blocks and the order of ``value``."""
    from tvm import relax

    result = walk.emit(relax.Call(call.op, arguments, call.attrs))
    return Value(value.shape, packed=result, block=value.block, order=value.order, fused=value.fused)


_Handler: TypeAlias = "Callable[[Rewriter, relax.Call, list[Value]], Value | None]"
#: What serves each operator, by its name in Relax.
_TABLE: dict[str, _Handler] = {
    "nn.conv2d": conv2d,
    "nn.max_pool2d": pool,
    "nn.avg_pool2d": pool,
    "mean": mean,
    "sum": sum_channels,
    "concat": concat,
    "image.resize2d": resize,
    "strided_slice": strided_slice,
    "power": power,
    "reshape": shuffle,
    "permute_dims": shuffle,
}
