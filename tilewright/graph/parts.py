"""Parts of tensors: slices and splits, as views, as blocks of channels, or as weights of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.graph.value import Value, shape_of

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["split", "strided_slice", "whole_slice"]


def split(walk: Rewriter, call: relax.Call, value: Value) -> list[Value] | None:
    """The equal parts of a tensor, as views or as weights of their own; None if they cannot be either."""
    given = call.attrs.indices_or_sections
    axis = int(call.attrs.axis) % len(value.shape)
    size = value.shape[axis]
    if isinstance(given, int) or hasattr(given, "value"):
        count = int(given)
    else:
        bounds = [0, *(int(i) for i in given), size]
        count = len(bounds) - 1
        if bounds != [i * size // count for i in range(count + 1)]:
            return None
    if size % count:
        return None
    if value.recipe is not None:
        step = size // count
        return [
            Value(recipe.shape, recipe=recipe, dtype=value.dtype)
            for recipe in (value.recipe.slice(axis, i * step, (i + 1) * step) for i in range(count))
        ]
    if axis == 1 and value.packed is not None:
        step = size // count
        parts = [slice_channels(walk, value, i * step, step) for i in range(count)]
        blocked = [part for part in parts if part is not None]
        if len(blocked) == count:
            return blocked
    return split_view(walk, value, axis, count)


def split_view(walk: Rewriter, value: Value, axis: int, count: int) -> list[Value] | None:
    """Views of ``count`` equal parts of a tensor along ``axis``; None if a part is no view."""
    shape = value.shape
    axis %= len(shape)
    view = walk.make_view(value).reshape((*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :]))
    return None if view is None else [value.seen(view.index(axis, i)) for i in range(count)]


def whole_slice(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The tensor itself, if a slice is all of it."""
    strides = [int(getattr(stride, "value", stride)) for stride in call.args[4]] if len(call.args) > 4 else [1]
    return args[0] if args[0].shape == shape_of(call) and set(strides) == {1} else None


def strided_slice(walk: Rewriter, call: relax.Call, args: list[Value]) -> Value | None:
    """Neighbouring channels of a blocked operand."""
    shape = args[0].shape
    bounds = [[int(getattr(number, "value", number)) for number in field] for field in call.args[1:]]
    axes, begins, _, strides = [*bounds, [1] * len(bounds[0])][:4]
    if axes not in ([1], [1 - len(shape)]) or strides != [1]:
        return None
    begin = min(begins[0], shape[1]) if begins[0] >= 0 else max(begins[0] + shape[1], 0)
    return slice_channels(walk, args[0], begin, shape_of(call)[1])


def slice_channels(walk: Rewriter, value: Value, begin: int, count: int) -> Value | None:
    """``count`` channels of a blocked image from ``begin`` on; None if they are not whole blocks side by side."""
    from tvm import relax

    if value.packed is None or len(value.shape) != 4 or value.dtype != "float32":
        return None
    wanted = range(begin, begin + count)
    blocks = [p // value.block for p, c in enumerate(value.places) if c in wanted]
    first, end = min(blocks), max(blocks) + 1
    places = value.places[first * value.block : end * value.block]
    if any(c >= 0 and c not in wanted for c in places):
        return None
    order = tuple(c - begin if c >= 0 else -1 for c in places)
    part = relax.op.strided_slice(value.packed, [1], [first], [end], assume_inbound=True)
    shape = (value.shape[0], count, *value.shape[2:])
    natural = order == tuple(range(count))
    return Value(shape, packed=walk.emit(part), block=value.block, order=None if natural else order)
