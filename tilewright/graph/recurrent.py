"""Packs the weights of recurrent operators for vectors, when a network is rewritten.

An importer emits a call of a function that is marked as recurrent, with weights in blocks of one unit. The rewriting
replaces it by a call for the same cell, whose blocks have as many units as a vector register has lanes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tilewright.graph.marked import read_marked
from tilewright.graph.value import Value
from tilewright.graph.view import View
from tilewright.ops import recurrent
from tilewright.ops.recurrent.cell import KIND

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["serve"]


def serve(walk: Rewriter, call: relax.Call) -> Value | list[Value] | None:
    """The results of a call of a recurrent operator; None if the call is another one.

    Args:
        walk: emits the new graph.
        call: of ``relax.call_tir``.
    """
    from tvm import relax

    found = read_marked(walk, call, KIND)
    if found is None:
        return None
    detail, operands = found
    plain = recurrent.Cell.parse(detail)
    # Networks nearly always read the directions of a step side by side. For other orders, the result is a view.
    order = "tbd" if plain.y_order == "tdb" else plain.y_order
    block = recurrent.find_block(plain.hidden, walk.lanes)
    cell = dataclasses.replace(plain, block=block, y_order=order)
    arguments = [
        _pack_weight(walk, value, cell) if name == "r" else walk.make_plain(value)
        for name, value in zip(plain.shapes, operands, strict=False)
    ]
    function = walk.builder.add_func(recurrent.recurrent(cell), cell.kind)
    kinds = [relax.TensorType(cell.shapes[name], "float32") for name in cell.outputs]
    result = walk.emit(relax.call_tir(function, arguments, kinds))
    parts = [result] if len(kinds) == 1 else [walk.emit(relax.TupleGetItem(result, i)) for i in range(len(kinds))]
    values = [_view_result(part, name, plain, cell) for name, part in zip(cell.outputs, parts, strict=True)]
    return values if len(values) > 1 else values[0]


def _pack_weight(walk: Rewriter, value: Value, cell: recurrent.Cell) -> relax.Expr:
    """The recurrent weights ``(D, H, H, G, 1)``, the unit first, as ``(D, H/L, H, G, L)``."""
    from tvm import relax

    d, h, g = cell.directions, cell.hidden, len(cell.gates)
    padded = cell.units != tuple(range(h))
    blocks, order = (d, cell.blocks, cell.block, h, g), (0, 1, 3, 4, 2)
    if value.recipe is not None:
        recipe = value.recipe.reshape((d, h, h, g))
        return walk.add_weight((recipe.take(1, cell.units) if padded else recipe).reshape(blocks).transpose(order))
    tensor = walk.reshape(walk.make_plain(value), (d, h, h, g))
    if padded:
        units = relax.const(np.asarray(cell.units, dtype=np.int64))
        tensor = walk.emit(relax.op.take(tensor, units, axis=1, mode="clip"))
    return walk.emit(relax.op.permute_dims(walk.reshape(tensor, blocks), list(order)))


def _view_result(tensor: relax.Expr, name: str, plain: recurrent.Cell, cell: recurrent.Cell) -> Value:
    """A result with its dimensions in the order that the network uses."""
    shape = plain.shapes[name]
    if name != "y" or plain.y_order == cell.y_order:
        return Value.plain(shape, tensor)
    axes = [cell.y_order.index(letter) for letter in plain.y_order]
    return Value(shape, base=tensor, view=View.of(cell.shapes[name]).permute([*axes, len(axes)]))
