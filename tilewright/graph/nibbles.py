"""Products with weights of 4 bits, which stay so in memory.

A matrix that the second cache holds becomes float32 when the network is built: reading it costs less than unpacking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.graph.channels import padded_order
from tilewright.graph.token_rows import MOST_ROWS_OF_HALVES, NARROWEST, choose_block, dense, find_rows, view_rows
from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import Atom, View
from tilewright.graph.weights import Recipe
from tilewright.ops.contraction.nibbles import NIBBLES, NibbleForm, nibble_dense, nibble_panels
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["serve"]


def serve(walk: Rewriter, call: relax.Call) -> Value | None:
    """The value of a call of the importer's function :func:`plain_nibbles`; None for any other call."""
    function = walk.builder.get()[call.args[0]]
    if function.attrs is None or NIBBLES not in function.attrs:
        return None
    block = int(function.attrs[NIBBLES])
    left, *others = (walk.values.get(argument) for argument in call.args[1].fields)
    if not isinstance(left, Value) or left.dtype != "float32":
        return None
    recipes = [other.recipe for other in others if isinstance(other, Value) and other.recipe is not None]
    if len(recipes) < len(others) or any(recipe.source in walk.varying for recipe in recipes):
        return None
    rows, outputs = shape_of(call)
    depth = left.shape[-1]
    zeros = _read_zeros(walk, recipes, outputs)
    form = NibbleForm(depth, outputs, block, "" if zeros is None else str(zeros.dtype))
    if outputs < NARROWEST:
        return None
    if 4 * depth * outputs <= walk.cached:
        return dense(walk, call, left, walk.make_weight(_widen(walk, recipes, zeros, form)))
    view, shape = find_rows(walk, left)
    x = choose_block(walk.lanes, outputs, rows)
    order = padded_order(outputs, x)
    scales = recipes[1].reshape((outputs, form.blocks))
    packed = [recipes[0].reshape((outputs, form.words * 4)).words(), scales]
    packed += [] if zeros is None else [walk.make_weight(zeros)]
    packed = [recipe if outputs % x == 0 else recipe.take(0, order) for recipe in packed]
    packed = [r.reshape((-(-outputs // x), x, r.shape[1])).transpose((0, 2, 1)) for r in packed]
    arguments = [walk.reshape(left.base, shape), *map(walk.add_weight, packed)]
    seen = view_rows(view, depth, outputs)
    if rows <= MOST_ROWS_OF_HALVES:
        result = walk.call(nibble_dense(rows, form, x), arguments, (rows, outputs), "nibble_dense")
    else:
        result = walk.call(nibble_panels(rows, form, x), arguments, (1, rows, outputs), "nibble_panels")
        seen = View(((Atom(1),), *seen.base), seen.dims)
    return Value((rows, outputs), base=result, view=seen, fresh=True)


def _read_zeros(walk: Rewriter, recipes: list[Recipe], outputs: int) -> Array | None:
    """The zero points of weights of 4 bits, ``(outputs, blocks)``; None if there are none."""
    if len(recipes) < 3:
        return None
    blocks = recipes[0].shape[1]
    zeros = recipes[2].apply(walk.arrays)
    if zeros.dtype != np.uint8:
        return zeros.reshape(outputs, blocks)
    return np.ascontiguousarray(_split(zeros.reshape(outputs, -1))[:, :blocks])


def _widen(walk: Rewriter, recipes: list[Recipe], zeros: Array | None, form: NibbleForm) -> NDArray[np.float32]:
    """The numbers of weights of 4 bits. ``(depth, outputs)``"""
    levels = _split(recipes[0].apply(walk.arrays).reshape(form.outputs, -1))
    levels = levels.reshape(form.outputs, form.blocks, form.block)
    middle = np.float32(8) if zeros is None else zeros.astype(np.float32)[..., None]
    scales = recipes[1].apply(walk.arrays).astype(np.float32).reshape(form.outputs, form.blocks, 1)
    numbers = (levels.astype(np.float32) - middle) * scales
    return np.ascontiguousarray(numbers.reshape(form.outputs, -1)[:, : form.depth].T)


def _split(pairs: Array) -> NDArray[np.uint8]:
    """Rows of bytes as rows of levels, two of a byte, the lower bits first."""
    whole = pairs.astype(np.uint8)
    return np.stack([whole & 15, whole >> 4], axis=-1).reshape(len(whole), -1)
