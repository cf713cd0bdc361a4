"""Writes the program of an attention: a block of queries after the other, whose scores never leave a core's cache.

for part of the queries of a matrix:
  K and V one row after the other, where they lie otherwise (or read where they lie)
  for block of queries:
    Q^T = the block's queries, scaled and transposed: a vector holds one column of several queries
    for stripe of keys:
        for tile of keys:                        registers: S^T[key, queries] += K[key, d] * Q^T[d, queries]
            mask, largest score of each query, S^T to the cache
        S^T = exp(S^T - largest), and the sum of each query
        for tile of queries and columns:         registers: O[query, columns] += S^T[key, query] * V[key, columns]
    O / sum, and log(sum) + largest if that is wanted

A vector of scores holds queries, so largest scores and sums need no step across lanes, and K and V are read where they
lie. With one stripe, whole rows of scores stay in the cache. With several stripes, sums and results so far are scaled
whenever a larger score is found ("online softmax": Rabe & Staats 2021, arXiv 2112.05682; Dao et al. 2022, arXiv
2205.14135).

If vectors or tiles do not divide their range, the last one begins earlier, and computes some elements twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.ops.attention.block import Block
from tilewright.ops.attention.elements import Elements, Nest
from tilewright.ops.attention.form import Attention
from tilewright.ops.statements import bound_index, make_counter, make_index, make_loop, make_sequence, store
from tilewright.ops.vectors import fit_vector

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["write_attention"]


def write_attention(attention: Attention, params: Sequence[Var], nest: Nest) -> tuple[Stmt, list[Var]]:
    """The statements of an attention, and the buffers that they need.

    Args:
        attention: the operator.
        params: one buffer for each of ``attention.shapes``.
        nest: how the loops are arranged.
    """
    writer = _Writer(attention, params, nest)
    return writer.write(), writer.elements.buffers


class _Writer:
    """Writes the loops over the parts of all matrices, and over the blocks of a part."""

    def __init__(self, attention: Attention, params: Sequence[Var], nest: Nest) -> None:
        self.attention, self.nest = attention, nest
        self.elements = Elements(attention, params, nest)

    def write(self) -> Stmt:
        """All statements."""
        from tvm import tirx

        attention, nest = self.attention, self.nest
        vectors = -(-attention.queries // nest.lanes)
        whole, rest = divmod(vectors, nest.vectors)
        blocks = whole + (rest > 0)
        each = -(-blocks // nest.parts)
        parts = -(-blocks // each)
        place, number_in_part = make_counter("part"), make_counter("block")
        item, part = (place // parts, place % parts) if parts > 1 else (place, make_index(0))
        block = part * each + number_in_part
        kinds = [
            Block(self.elements, item, block, count) for count in ([nest.vectors] * (whole > 0) + [rest] * (rest > 0))
        ]
        body = kinds[0].write()
        if len(kinds) > 1:
            body = tirx.IfThenElse(block < make_index(whole), body, kinds[1].write())
        if blocks % each:
            body = tirx.IfThenElse(block < make_index(blocks), body, None)
        body = make_loop(number_in_part, each, body)
        if nest.copies:
            body = make_sequence([self._copy("k", item), self._copy("v", item), body])
        count = attention.items * parts
        parallel = nest.parallel and count > 1
        return make_loop(place, count, body, tirx.ForKind.PARALLEL if parallel else None)

    def _copy(self, name: str, item: Expr) -> Stmt:
        """Copy the keys or the values of a matrix, one row after the other."""
        attention, nest = self.attention, self.nest
        columns, column = (attention.depth, "depth") if name == "k" else (attention.width, "width")
        lanes = fit_vector(columns, nest.column_lanes)
        key, vector, lane = make_counter("key"), make_counter("vector"), make_counter("lane")
        at = bound_index(vector * lanes, columns - lanes) + lane
        value = self.elements.load(name, getattr(attention, name), item, **{"key": key, column: at})
        body = store(self.elements.copies[name], value, [key, at])
        body = make_loop(lane, lanes, body, self.elements.vectorized if lanes > 1 else None)
        return make_loop(key, attention.keys, make_loop(vector, -(-columns // lanes), body, self.elements.unrolled))
