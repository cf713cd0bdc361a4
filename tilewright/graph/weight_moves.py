"""Operators that only move the elements of a weight: they become a part of how the weight is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.graph.value import Value, shape_of

if TYPE_CHECKING:
    from tvm import relax

__all__ = ["move_weight"]


def move_weight(name: str, call: relax.Call, args: list[Value]) -> Value | None:
    """The value of an operator that only moves the elements of a weight; None for any other operator."""
    if len(args) < 1 or args[0].recipe is None or not hasattr(call.ty, "shape"):  # some give a shape, no tensor
        return None
    if name in ("reshape", "expand_dims", "squeeze"):
        shape = shape_of(call)
        return Value(shape, recipe=args[0].recipe.reshape(shape), dtype=args[0].dtype)
    if name == "permute_dims":
        shape = shape_of(call)
        axes = call.attrs.axes
        order = tuple(int(a) for a in axes) if axes is not None else tuple(reversed(range(len(shape))))
        return Value(shape, recipe=args[0].recipe.transpose(order), dtype=args[0].dtype)
    if name == "strided_slice":
        return _slice_weight(call, args[0])
    if name == "flip":
        return Value(args[0].shape, recipe=args[0].recipe.flip((int(call.attrs.axis),)), dtype=args[0].dtype)
    return None


def _slice_weight(call: relax.Call, weight: Value) -> Value | None:
    """The value of a part of a weight; None if the part is not known before the network runs."""
    from tvm import relax

    given = call.args[1:]
    recipe = weight.recipe
    if recipe is None or not all(isinstance(argument, relax.Tuple) for argument in given):
        return None
    found = [[getattr(field, "value", None) for field in argument.fields] for argument in given]
    numbers = [[number for number in part if isinstance(number, int)] for part in found]
    if list(map(len, numbers)) != list(map(len, found)):
        return None
    axes, begins, ends, *more = numbers
    for place, axis in enumerate(axes):
        step = more[0][place] if more else 1
        extent = recipe.shape[axis]
        if step < 1 or not 0 <= begins[place] < ends[place] <= extent:
            return None
        recipe = recipe.slice(axis, begins[place], ends[place], step)
    return Value(recipe.shape, recipe=recipe, dtype=weight.dtype)
