"""Recurrent operators in Relax: one product of the inputs of all steps, and one function for the loop over steps.

y, y_h, y_c = cell(x, w, r, biases) --> recurrent(matmul(x, w^T) + bias, r^T, ...)

All directions of an operator are in one product and in one function. ``graph/recurrent`` packs ``r`` for vectors later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.ops.recurrent import Cell, recurrent
from tilewright.ops.recurrent.cell import OPTIONAL

if TYPE_CHECKING:
    from tvm import relax

__all__ = ["CellOperands", "emit_recurrent"]


@dataclass(frozen=True)
class CellOperands:
    """The operands of a recurrent operator, as models have them.

    In shapes, D is the number of directions, G that of the gates, H the number of units, and I that of the inputs.

    Attributes:
        x: the inputs, ``(T, B, I)`` or ``(B, T, I)``, as ``Cell.x_order`` says.
        w: the weights of the inputs; D * G * H rows of I, in any shape.
        r: the weights of the states; D * G * H rows of H, in any shape.
        input_bias, state_bias: D * G * H numbers in any shape; None: zeros.
        more: the other operands by their names in ``Cell.shapes``, in any shape: lengths, initial states, peepholes.
    """

    x: relax.Expr
    w: relax.Expr
    r: relax.Expr
    input_bias: relax.Expr | None = None
    state_bias: relax.Expr | None = None
    more: Mapping[str, relax.Expr] = field(default_factory=dict)


def emit_recurrent(builder: relax.BlockBuilder, cell: Cell, operands: CellOperands) -> dict[str, relax.Expr]:
    """Emit a recurrent operator. Returns its results by name, in the shapes that ``Cell.shapes`` says.

    Args:
        builder: emits the expressions.
        cell: the operator. Which operands it has is found here.
        operands: its operands.
    """
    from tvm import relax

    d, g, h = cell.directions, len(cell.gates), cell.hidden
    rows = d * g * h
    outer = [int(extent) for extent in operands.x.ty.shape.values]
    w = builder.emit(relax.op.permute_dims(builder.emit(relax.op.reshape(operands.w, (rows, outer.pop())))))
    x = builder.emit(relax.op.matmul(operands.x, w))
    if operands.input_bias is not None:
        x = builder.emit(relax.op.add(x, builder.emit(relax.op.reshape(operands.input_bias, (rows,)))))
    r = builder.emit(relax.op.permute_dims(builder.emit(relax.op.reshape(operands.r, (d, g, h, h))), [0, 2, 3, 1]))
    more = dict(operands.more) | ({} if operands.state_bias is None else {"bias": operands.state_bias})
    cell = dataclasses.replace(cell, given=tuple(name for name in OPTIONAL if name in more))
    known = {"x": x, "r": r, **more}
    count = len(cell.shapes) - len(cell.outputs)
    arguments = [builder.emit(relax.op.reshape(known[n], shape)) for n, shape in list(cell.shapes.items())[:count]]
    kinds = [relax.TensorType(cell.shapes[name], "float32") for name in cell.outputs]
    result = builder.emit(relax.call_tir(builder.add_func(recurrent(cell), cell.kind), arguments, kinds))
    if len(kinds) == 1:
        return {cell.outputs[0]: result}
    return {name: builder.emit(relax.TupleGetItem(result, place)) for place, name in enumerate(cell.outputs)}
