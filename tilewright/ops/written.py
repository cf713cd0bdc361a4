"""Functions whose loops are written as statements, since TVM's tensor expressions cannot express them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from tilewright.errors import FormError
from tilewright.ops.function import OPAQUE
from tilewright.ops.mark import Mark, take_mark
from tilewright.ops.statements import bind_once, make_index
from tilewright.space.module import form_errors, task_module
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, TensorRegion, Var
    from tvm.s_tir import SBlock, Schedule
    from tvm.tirx import PrimFunc, Stmt

__all__ = ["declare", "make_written_function", "read_written", "schedule_statements", "write_after"]

Description = TypeVar("Description")


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


def read_written(
    task: Task, kind: str, parse: Callable[[str], Description], write: Callable[[Description], PrimFunc]
) -> tuple[IRModule, Description]:
    """The task's function, and the description of the operator that it computes.

    Args:
        task: the task.
        kind: of the operator's mark.
        parse: reads the detail of the mark.
        write: gives the function of a description.

    Raises:
        FormError: the function has no such mark, or is another function than that of the mark.
        SpaceError: the function cannot be read.
    """
    from tvm_ffi import structural_equal

    module = task_module(task)
    with form_errors(f"{task.name!r} has not the form of the operator {kind!r}"):
        main = module["main"]
        name = f"tilewright.{kind}"
        if main.attrs is None or name not in main.attrs:
            raise FormError(f"the function of the operator {kind!r} has its description, but {task.name!r} has none")
        description = parse(str(main.attrs[name]))
        written = take_mark(write(description))[0]
        if not structural_equal(_bare(main), _bare(written), map_free_vars=True):
            raise FormError(f"the function of {task.name!r} is another than that of the {kind!r} that it describes")
    return module, description


def schedule_statements(function: PrimFunc, body: Stmt, buffers: Sequence[Var]) -> Schedule:
    """A schedule of the function with other loops. Its trace is empty, since no primitive made it."""
    import tvm
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize, Schedule

    root = SBlock([], [], [], "root", bind_once(body), None, list(buffers))
    return Schedule(
        tvm.ir.IRModule({"main": function.with_body(SBlockRealize([], tirx.const(True, "bool"), root))}), seed=1
    )


def write_after(block: SBlock, variables: Sequence[Var], places: Sequence[Expr], sums: Var, number: Expr) -> Stmt:
    """What a block does at one place, with the sum there in a register.

    Args:
        block: reads ``sums`` at its own variables, and writes a result.
        variables: of the block.
        places: what they are.
        sums: the buffer of the sums, which is never made.
        number: the sum at that place.
    """
    from tvm.ir import TensorLoad, Var
    from tvm_ffi import structural_map

    known = dict(zip(variables, places, strict=True))

    def read(node: TensorLoad) -> Expr:
        return number if node.source.same_as(sums) else node

    def moved(node: Var) -> Expr:
        return known.get(node, node)

    written: Stmt = structural_map(structural_map(block.body, (Var, moved)), (TensorLoad, read))
    return written


def _bare(function: PrimFunc) -> PrimFunc:
    from tvm import tirx

    return tirx.PrimFunc(function.params, function.body, function.ret_type)


def _whole(buffer: Var) -> TensorRegion:
    """All elements of a buffer."""
    from tvm import ir, tirx

    return tirx.BufferRegion(buffer, [ir.Range(make_index(0), extent) for extent in buffer.ty.shape])
