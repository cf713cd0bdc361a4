"""How the loops of an attention's gradient are arranged."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PLAIN", "Nest"]


@dataclass(frozen=True)
class Nest:
    """How the loops of an attention's gradient are arranged.

    Attributes:
        lanes: queries in a vector of scores; at most the queries.
        vectors: vectors of queries in a block.
        keys: keys in a register tile of scores, and in one of the gradients of keys and values.
        rows: queries in a register tile of the gradient of queries; at most those of a block.
        columns: vectors of columns in a register tile of gradients.
        column_lanes: columns in a vector; at most the depth and the width.
        unroll: steps of the products that give scores which are written out.
        parallel: whether the matrices of the batch run in parallel.
        written_out: whether inner loops are vectorised and unrolled; otherwise they stay plain loops.
    """

    lanes: int
    vectors: int
    keys: int
    rows: int
    columns: int
    column_lanes: int
    unroll: int = 1
    parallel: bool = False
    written_out: bool = True


#: The plain loops of the function before scheduling.
PLAIN = Nest(1, 1, 1, 1, 1, 1, written_out=False)
