"""Calls of functions that an importer has marked as an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.graph.value import Value
from tilewright.ops.mark import take_mark

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["read_marked"]


def read_marked(walk: Rewriter, call: relax.Call, kind: str) -> tuple[str, list[Value]] | None:
    """The detail of the mark, and the operands; None if the mark is another one, or an operand is no tensor.

    Args:
        walk: emits the new graph.
        call: of ``relax.call_tir``.
        kind: of the mark.
    """
    mark = take_mark(walk.builder.get()[call.args[0]])[1]
    found = [walk.values.get(argument) for argument in call.args[1].fields]
    operands = [value for value in found if isinstance(value, Value)]
    return (mark.detail, operands) if mark.kind == kind and len(operands) == len(found) else None
