"""Writes the program of an attention of bytes: products by quads of bytes, and scores that never leave a core's cache.

for part of the queries of a matrix:
  K looked up, if it has a table; the sum of each key's bytes; V in quads of keys
  for block of queries:
    Q^T = the block's queries, looked up, in quads: a vector holds a quad of several queries
    for tile of keys:                            registers: S^T[key, queries] += K[key, quad] * Q^T[quad, queries]
        zero points, rounding, masks, largest score of each query, S^T to the cache
    S^T = exp(S^T - largest), and the sum of each query
    P^T = round(S^T / sum), in quads of keys
    for tile of queries and columns:             registers: O[query, columns] += P^T[quad, query] * V[quad, columns]
        zero points, rounding
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.ops.attention.byte_block import SIGNS, ByteBlock, ByteNest, Shared
from tilewright.ops.attention.byte_elements import ByteElements
from tilewright.ops.attention.byte_form import ByteAttention
from tilewright.ops.contraction.dot_products import PAIR
from tilewright.ops.statements import bound_index, load, make_counter, make_index, make_loop, make_sequence, store

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["write_byte_attention"]


def write_byte_attention(form: ByteAttention, params: Sequence[Var], nest: ByteNest) -> tuple[Stmt, list[Var]]:
    """The statements of an attention of bytes, and the buffers that they need.

    Args:
        form: the operator.
        params: one buffer for each of ``form.kinds``.
        nest: how the loops are arranged.
    """
    writer = _Writer(form, params, nest)
    return writer.write(), writer.elements.buffers


class _Writer:
    """Writes the loops over the parts of all matrices, and over the blocks of a part."""

    def __init__(self, form: ByteAttention, params: Sequence[Var], nest: ByteNest) -> None:
        self.form, self.nest = form, nest
        self.elements = ByteElements(form, params)
        allocate = self.elements.allocate
        self.shared = Shared(
            self._allocate_keys(),
            allocate("key_sums", (form.keys,), "int32"),
            allocate("values", (-(-form.keys // nest.together), form.width), "int32"),
        )
        self.looked = allocate("k_row", (form.depth,), "uint8") if form.tables[1] and nest.together == PAIR else None

    def _allocate_keys(self) -> Var | None:
        shape = (self.form.keys, self.form.depth)
        if self.nest.together == PAIR:
            return self.elements.allocate("k_words", shape, "int16")
        return self.elements.allocate("k_looked", shape, "uint8") if self.form.tables[1] else None

    def write(self) -> Stmt:
        """All statements."""
        from tvm import tirx

        form, nest = self.form, self.nest
        whole, rest = divmod(-(-form.queries // nest.lanes), nest.vectors)
        blocks = whole + (rest > 0)
        each = -(-blocks // nest.parts)
        parts = -(-blocks // each)
        place, number_in_part = make_counter("part"), make_counter("block")
        item, part = (place // parts, place % parts) if parts > 1 else (place, make_index(0))
        block = part * each + number_in_part
        counts = [nest.vectors] * (whole > 0) + [rest] * (rest > 0)
        kinds = [ByteBlock(self.elements, nest, self.shared, item, block, count) for count in counts]
        body = kinds[0].write()
        if len(kinds) > 1:
            body = tirx.IfThenElse(block < make_index(whole), body, kinds[1].write())
        if blocks % each:
            body = tirx.IfThenElse(block < make_index(blocks), body, None)
        body = make_loop(number_in_part, each, body)
        body = make_sequence([self._sum_keys(item), self._pack_values(item), body])
        count = form.items * parts
        return make_loop(place, count, body, tirx.ForKind.PARALLEL if nest.parallel and count > 1 else None)

    def _sum_keys(self, item: Expr) -> Stmt:
        """Look up the keys, and sum the bytes of each. If pairs are multiplied, the bytes become int16."""
        from tvm import tirx

        key, column = make_counter("key"), make_counter("d")
        sums, looked = self.shared.key_sums, self.shared.keys
        parts: list[Stmt] = []
        byte = self.elements.load("k", item, key=key, depth=column)
        pairs = self.nest.together == PAIR
        if self.looked is not None:
            parts.append(self.elements.look_up("k", self.looked, [], item, key=key))
            byte = load(self.looked, [column])
        elif looked is not None and not pairs:
            parts.append(self.elements.look_up("k", looked, [key], item, key=key))
            byte = load(looked, [key, column])
        parts.append(store(sums, tirx.const(0, "int32"), [key]))
        each = [store(sums, load(sums, [key]) + byte.astype("int32"), [key])]
        if looked is not None and pairs:
            each.append(store(looked, byte.astype("int16"), [key, column]))
        parts.append(make_loop(column, self.form.depth, make_sequence(each)))
        moved = tirx.const(128, "int32") - self.elements.zero("q")
        parts.append(store(sums, load(sums, [key]) * moved, [key]))
        return make_loop(key, self.form.keys, make_sequence(parts))

    def _pack_values(self, item: Expr) -> Stmt:
        """Put four or two keys' values of each column side by side, as signed. The last keys may be there twice."""
        from tvm import tirx

        form, lanes, together = self.form, self.nest.column_lanes, self.nest.together
        quad, vector, lane = make_counter("quad"), make_counter("vector"), make_counter("lane")
        column = bound_index(vector * lanes, form.width - lanes) + lane
        total = None
        for place in range(together):
            key = bound_index(quad * together + place, form.keys - 1)
            byte = self.elements.load("v", item, key=key, width=column).astype("int32")
            if together == PAIR:
                byte = byte - tirx.const(128, "int32")
                byte = byte if place else tirx.bitwise_and(byte, tirx.const(0xFFFF, "int32"))
            byte = byte << tirx.const(32 // together * place, "int32") if place else byte
            total = byte if total is None else tirx.bitwise_or(total, byte)
        signed = total if together == PAIR else tirx.bitwise_xor(total, tirx.const(SIGNS, "int32"))
        body = make_loop(lane, lanes, store(self.shared.values, signed, [quad, column]), tirx.ForKind.VECTORIZED)
        return make_loop(quad, -(-form.keys // together), make_loop(vector, -(-form.width // lanes), body))
