"""Statements of TIR, for templates that write their programs instead of scheduling expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.s_tir import SBlock
    from tvm.tirx import ForKind, IterVar, Let, Stmt
    from tvm_ffi import StructuralMutator

__all__ = [
    "bind_once",
    "bound_index",
    "load",
    "make_counter",
    "make_index",
    "make_loop",
    "make_sequence",
    "replace_body",
    "store",
]

_INDEX = "int64"  # as Relax counts


def make_counter(name: str) -> Var:
    """A variable of a loop."""
    from tvm import tirx

    return tirx.Var(name, _INDEX)


def make_index(value: int) -> Expr:
    """A constant in the type of indices."""
    from tvm import tirx

    return tirx.const(value, _INDEX)


def bind_once(statement: Stmt) -> Stmt:
    """The statement, in which each ``Let`` has a variable of its own.

    A formula with a ``Let``, such as GELU's, is there twice after it was inlined into one that reads it twice, such as
    hard-swish. TVM's analysis refuses a variable that is bound twice.
    """
    from tvm import tirx
    from tvm.ir import Var
    from tvm_ffi import structural_mutate

    bound: dict[Var, Var] = {}

    def bind(node: Let, mutator: StructuralMutator) -> Expr:
        value, before = mutator.mutate(node.value), bound.get(node.var)
        new = bound[node.var] = tirx.Var(node.var.name, str(node.var.ty.dtype))
        body = mutator.mutate(node.body)
        if before is None:
            del bound[node.var]
        else:  # the same formula within its own body
            bound[node.var] = before
        return tirx.Let(new, value, body)

    def variable(node: Var, _: object) -> Expr:
        return bound.get(node, node)

    made: Stmt = structural_mutate(statement, ((tirx.Let, bind), (Var, variable)))
    return made


def bound_index(value: Expr, most: int) -> Expr:
    """An index, or ``most`` if the index is larger."""
    from tvm import tirx

    return tirx.min(value, make_index(most))


def make_sequence(statements: Sequence[Stmt]) -> Stmt:
    """Statements one after the other; at least one."""
    from tvm import tirx

    return tirx.SeqStmt(list(statements)) if len(statements) > 1 else statements[0]


def make_loop(counter: Var, extent: int, body: Stmt, kind: ForKind | None = None) -> Stmt:
    """A loop from 0 to ``extent``; ``kind`` None: a serial one."""
    from tvm import tirx

    return tirx.For(counter, make_index(0), make_index(extent), tirx.ForKind.SERIAL if kind is None else kind, body)


def load(buffer: Var, indices: Sequence[Expr]) -> Expr:
    """An element of a buffer."""
    from tvm import tirx

    return tirx.BufferLoad(buffer, list(indices))


def store(buffer: Var, value: Expr, indices: Sequence[Expr]) -> Stmt:
    """The statement that stores an element of a buffer."""
    from tvm import tirx

    return tirx.BufferStore(buffer, value, list(indices))


def replace_body(block: SBlock, body: Stmt, iterators: Sequence[IterVar] = ()) -> SBlock:
    """The block with another body, and with further iterators."""
    from tvm.s_tir import SBlock

    return SBlock(
        [*block.iter_vars, *iterators],
        block.reads,
        block.writes,
        block.name_hint,
        body,
        block.init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )
