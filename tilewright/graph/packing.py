"""Packs weights that change from call to call: the steps of their recipes become calls of the plan.

    weight (O, C, 3, 3), Recipe(reshape, transpose)  -->  permute_dims(reshape(weight))

A weight that does not change is packed once, when the executable is built (:mod:`tilewright.graph.weights`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tilewright.graph.weights import Recipe

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["apply"]


def apply(walk: Rewriter, recipe: Recipe) -> relax.Expr:
    """The tensor that a recipe makes of a varying weight. Recipes that begin with the same steps share these.

    Args:
        walk: emits the new graph.
        recipe: its source is one of ``walk.varying``.
    """
    from tvm import relax

    tensor = walk.varying[recipe.source]
    for count, (kind, argument) in enumerate(recipe.steps, 1):
        done = (recipe.source, recipe.steps[:count])
        if done not in walk.packed:
            step = _STEPS.get(kind)
            if step is None:
                raise ValueError(f"a varying weight is moved, but this step of its recipe computes: {kind!r}")
            walk.packed[done] = step(walk, tensor, argument)
        tensor = walk.packed[done]
    assert isinstance(tensor, relax.Var)
    return tensor


def _reshape(walk: Rewriter, tensor: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
    return walk.reshape(tensor, shape)


def _transpose(walk: Rewriter, tensor: relax.Expr, axes: tuple[int, ...]) -> relax.Expr:
    from tvm import relax

    return tensor if axes == tuple(range(len(axes))) else walk.emit(relax.op.permute_dims(tensor, axes))


def _flip(walk: Rewriter, tensor: relax.Expr, axes: tuple[int, ...]) -> relax.Expr:
    from tvm import relax

    for axis in axes:
        tensor = walk.emit(relax.op.flip(tensor, axis))
    return tensor


def _slice(walk: Rewriter, tensor: relax.Expr, argument: tuple[int, ...]) -> relax.Expr:
    from tvm import relax

    axis, *bounds = argument
    return walk.emit(relax.op.strided_slice(tensor, [axis], *([b] for b in bounds), assume_inbound=True))


def _take(walk: Rewriter, tensor: relax.Expr, argument: tuple[int, ...]) -> relax.Expr:
    """The elements at indices along an axis; zeros at indices of -1."""
    from tvm import relax

    axis, *indices = argument
    rank = len(tensor.ty.shape.values)
    count = int(tensor.ty.shape.values[axis])
    if indices[:count] == list(range(count)) and set(indices[count:]) <= {-1}:  # gaps at the end alone
        widths = [0] * (2 * rank)
        widths[2 * axis + 1] = len(indices) - count
        return walk.emit(relax.op.nn.pad(tensor, widths))
    table = np.maximum(np.asarray(indices, dtype=np.int64), 0)
    taken = walk.emit(relax.op.take(tensor, relax.const(table), axis=axis, mode="clip"))
    if -1 not in indices:
        return taken
    mask = (np.asarray(indices) >= 0).astype("float32").reshape([-1 if d == axis else 1 for d in range(rank)])
    return walk.emit(relax.op.multiply(taken, relax.const(mask)))


_Step: TypeAlias = "Callable[[Rewriter, relax.Expr, tuple[int, ...]], relax.Expr]"
#: What does each step of a recipe, by its kind.
_STEPS: dict[str, _Step] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "flip": _flip,
    "slice": _slice,
    "take": _take,
}
