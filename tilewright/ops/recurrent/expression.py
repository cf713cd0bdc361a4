"""The function of a recurrent operator as plain loops, since TVM's tensor expressions cannot express it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import KEPT, OPAQUE
from tilewright.ops.mark import Mark
from tilewright.ops.recurrent.cell import KIND, Cell
from tilewright.ops.recurrent.program import PLAIN, write_steps
from tilewright.ops.statements import make_index

if TYPE_CHECKING:
    from tvm.ir import TensorRegion, Var
    from tvm.tirx import PrimFunc

__all__ = ["recurrent"]


@lru_cache(KEPT)
def recurrent(cell: Cell) -> PrimFunc:
    """The recurrent part of an LSTM, a GRU or an RNN: all of it but the product of the inputs with their weights.

    Returns a PrimFunc whose parameters are those of ``cell.shapes``: operands, then results. All are float32, except
    ``lengths``, which is int32.
    """
    import tvm
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize

    params = [_declare(name, shape) for name, shape in cell.shapes.items()]
    body, buffers = write_steps(cell, params, PLAIN)
    regions = [_whole(param) for param in params]
    count = len(params) - len(cell.outputs)
    annotations = Mark(KIND, cell.detail).annotations
    block = SBlock([], regions[:count], regions[count:], KIND, body, None, buffers, None, annotations)
    always = tirx.const(True, "bool")
    root = SBlock([], [], [], "root", SBlockRealize([], always, block))
    function = tirx.PrimFunc(params, SBlockRealize([], always, root), tvm.ir.TupleType([]))
    return function.with_attr({"op_pattern": OPAQUE, "tirx.noalias": True})


def _declare(name: str, shape: tuple[int, ...]) -> Var:
    from tvm import tirx

    dtype = "int32" if name == "lengths" else "float32"
    return tirx.decl_buffer([make_index(extent) for extent in shape], dtype, name=name, layout=None)


def _whole(buffer: Var) -> TensorRegion:
    """All elements of a buffer."""
    from tvm import ir, tirx

    return tirx.BufferRegion(buffer, [ir.Range(make_index(0), extent) for extent in buffer.ty.shape])
