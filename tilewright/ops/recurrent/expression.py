"""The function of a recurrent operator as plain loops, since TVM's tensor expressions cannot express it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import KEPT
from tilewright.ops.mark import Mark
from tilewright.ops.recurrent.cell import KIND, Cell
from tilewright.ops.recurrent.program import PLAIN, write_steps
from tilewright.ops.written import declare, make_written_function

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = ["recurrent"]


@lru_cache(KEPT)
def recurrent(cell: Cell) -> PrimFunc:
    """The recurrent part of an LSTM, a GRU or an RNN: all of it but the product of the inputs with their weights.

    Returns a PrimFunc whose parameters are those of ``cell.shapes``: operands, then results. All are float32, except
    ``lengths``, which is int32.
    """
    params = [declare(name, shape, "int32" if name == "lengths" else "float32") for name, shape in cell.shapes.items()]
    body, buffers = write_steps(cell, params, PLAIN)
    return make_written_function(params, len(cell.outputs), body, buffers, Mark(KIND, cell.detail))
