"""Statements of TIR, for templates that write their programs instead of scheduling expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import ForKind, Stmt

__all__ = ["bound_index", "load", "make_counter", "make_index", "make_loop", "make_sequence", "store"]

_INDEX = "int64"  # as Relax counts


def make_counter(name: str) -> Var:
    """A variable of a loop."""
    from tvm import tirx

    return tirx.Var(name, _INDEX)


def make_index(value: int) -> Expr:
    """A constant in the type of indices."""
    from tvm import tirx

    return tirx.const(value, _INDEX)


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
