"""Transposes squares of vectors in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.ops.attention.elements import Tensors
from tilewright.ops.statements import load, make_index, store

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import Stmt

__all__ = ["turn_square"]


def turn_square(tensors: Tensors, rows: Sequence[Expr], name: str) -> tuple[list[Stmt], list[Expr]]:
    """Transpose as many vectors as a vector has lanes: lane i of row j --> lane j of row i.

    It takes log2(lanes) steps. Each step exchanges one bit of the row's number with that of the column's, for which a
    pair of rows is shuffled twice.

    Args:
        tensors: of the function.
        rows: the vectors. Their number is a power of 2.
        name: of the two buffers that are needed.

    Returns:
        The statements, and the rows after them.
    """
    from tvm import tirx

    lanes = len(rows)
    squares = [tensors.allocate(f"{name}_{i}", (lanes, lanes), "local") for i in range(2)]
    whole = tirx.Ramp(make_index(0), make_index(1), lanes)
    statements = [store(squares[0], value, [make_index(row), whole]) for row, value in enumerate(rows)]
    for bit in (1 << place for place in reversed(range(lanes.bit_length() - 1))):
        old, new = squares
        for row in range(lanes):
            # The columns that have this bit as the row has it stay; the others come from the row without it.
            pair = [load(old, [make_index(row), whole]), load(old, [make_index(row ^ bit), whole])]
            places = [lane if lane & bit == row & bit else lanes + (lane ^ bit) for lane in range(lanes)]
            shuffled = tirx.Shuffle(pair, [tirx.const(place, "int32") for place in places])
            statements.append(store(new, shuffled, [make_index(row), whole]))
        squares.reverse()
    return statements, [load(squares[0], [make_index(row), whole]) for row in range(lanes)]
