"""Functions whose loops are written as statements, since TVM's tensor expressions cannot express them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.ops.function import OPAQUE
from tilewright.ops.mark import Mark, take_mark
from tilewright.ops.statements import make_index

if TYPE_CHECKING:
    from tvm.ir import TensorRegion, Var
    from tvm.s_tir import Schedule
    from tvm.tirx import PrimFunc, Stmt

__all__ = ["computes", "declare", "make_written_function", "schedule_statements"]


def declare(name: str, shape: Sequence[int], dtype: str = "float32", scope: str = "global") -> Var:
    """A buffer; ``scope`` ``local``: registers."""
    from tvm import tirx

    return tirx.decl_buffer([make_index(extent) for extent in shape], dtype, name=name, scope=scope, layout=None)


def make_written_function(
    params: Sequence[Var], results: int, body: Stmt, buffers: Sequence[Var], mark: Mark
) -> PrimFunc:
    """The function of an operator, which nothing is fused with.

    Args:
        params: buffers: operands, then results.
        results: how many of them are results.
        body: the plain loops.
        buffers: what the loops need besides.
        mark: of the operator. Its block has the name of the kind.
    """
    import tvm
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize

    regions = [_whole(param) for param in params]
    count = len(params) - results
    block = SBlock([], regions[:count], regions[count:], mark.kind, body, None, list(buffers), None, mark.annotations)
    always = tirx.const(True, "bool")
    root = SBlock([], [], [], "root", SBlockRealize([], always, block))
    function = tirx.PrimFunc(list(params), SBlockRealize([], always, root), tvm.ir.TupleType([]))
    return function.with_attr({"op_pattern": OPAQUE, "tirx.noalias": True})


def computes(function: PrimFunc, written: PrimFunc) -> bool:
    """Whether a task's function is that of an operator, apart from the operator's mark."""
    from tvm_ffi import structural_equal

    return bool(structural_equal(_bare(function), _bare(take_mark(written)[0]), map_free_vars=True))


def schedule_statements(function: PrimFunc, body: Stmt, buffers: Sequence[Var]) -> Schedule:
    """A schedule of the function with other loops. Its trace is empty, since no primitive made it."""
    import tvm
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize, Schedule

    root = SBlock([], [], [], "root", body, None, list(buffers))
    return Schedule(
        tvm.ir.IRModule({"main": function.with_body(SBlockRealize([], tirx.const(True, "bool"), root))}), seed=1
    )


def _bare(function: PrimFunc) -> PrimFunc:
    from tvm import tirx

    return tirx.PrimFunc(function.params, function.body, function.ret_type)


def _whole(buffer: Var) -> TensorRegion:
    """All elements of a buffer."""
    from tvm import ir, tirx

    return tirx.BufferRegion(buffer, [ir.Range(make_index(0), extent) for extent in buffer.ty.shape])
