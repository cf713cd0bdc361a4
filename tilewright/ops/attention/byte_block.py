"""Writes the statements of one block of queries for :mod:`tilewright.ops.attention.byte_program`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tilewright.ops.attention.byte_elements import LOWEST, SMALLEST, ByteElements
from tilewright.ops.contraction.dot_products import PAIR, QUAD, DotProduct, add_quads
from tilewright.ops.elementwise.exponential import exp_below_zero
from tilewright.ops.elementwise.float32 import number
from tilewright.ops.statements import bound_index, load, make_counter, make_index, make_loop, make_sequence, store

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["SIGNS", "ByteBlock", "ByteNest", "Shared"]

#: The bits that make four unsigned bytes signed ones, less by 128.
SIGNS = -0x7F7F7F80
#: Four bytes of 1, and two int16 of 1.
_ONES = {QUAD: 0x01010101, PAIR: 0x00010001}

#: The statements at a vector of the block, a lane, and the query that they make.
_Element: TypeAlias = "Callable[[Expr, Expr, Expr], list[Stmt]]"


@dataclass(frozen=True)
class ByteNest:
    """How the loops of an attention of bytes are arranged.

    Attributes:
        lanes: queries in a vector of scores; at most the queries.
        vectors: vectors of queries in a block.
        keys: keys in a register tile of scores; at most the keys.
        rows: queries in a register tile of results. It divides the queries of a block.
        columns: vectors of columns in a register tile of results.
        column_lanes: columns in a vector; at most the width.
        unroll: quads of the product of queries and keys that are written out.
        parts: into which the blocks of a matrix are cut.
        parallel: whether parts run in parallel.
        score_product, result_product: the instructions for both products; None: plain code. Both have quads of bytes,
            or both have pairs of int16.
    """

    lanes: int
    vectors: int
    keys: int
    rows: int
    columns: int
    column_lanes: int
    unroll: int
    parts: int
    parallel: bool
    score_product: DotProduct | None
    result_product: DotProduct | None

    @property
    def together(self) -> int:
        """The numbers that an instruction multiplies at once, which are one int32: 4 bytes, or 2 int16."""
        return QUAD if self.score_product is None else self.score_product.together


@dataclass(frozen=True)
class Shared:
    """What all blocks of a matrix read.

    Attributes:
        keys: the bytes of the keys ``(keys, depth)``, looked up, or int16 if these are multiplied in pairs; None: bytes
            are read where they lie.
        key_sums: the sums of each key's bytes, times 128 minus the zero point of the queries. int32 ``(keys,)``
        values: quads of signed bytes: four keys' values of a column. int32 ``(ceil(keys/4), width)``. Pairs are alike.
    """

    keys: Var | None
    key_sums: Var
    values: Var


class ByteBlock:
    """Writes the statements of one block of queries.

    Args:
        elements: of the tensors.
        nest: how the loops are arranged.
        shared: what all blocks read.
        item: the matrix of the batch.
        block: the number of the block.
        vectors: vectors of queries in the block.
    """

    def __init__(
        self, elements: ByteElements, nest: ByteNest, shared: Shared, item: Expr, block: Expr, vectors: int
    ) -> None:
        self.elements, self.nest, self.shared = elements, nest, shared
        self.item, self.block, self.vectors = item, block, vectors
        self.form = form = elements.form
        self.rows = math.gcd(nest.rows, vectors * nest.lanes)
        self.together = nest.together
        self.quads, self.depth = -(-form.keys // self.together), form.depth // self.together
        queries, name = vectors * nest.lanes, str(vectors)

        def allocate(what: str, shape: tuple[int, ...], dtype: str = "float32", scope: str = "global") -> Var:
            return elements.allocate(what + name, shape, dtype, scope)

        self.turned = allocate("queries", (self.depth, queries), "int32")
        self.start = allocate("start", (vectors, nest.lanes), "int32", "local")
        self.scores = allocate("scores", (self.together * self.quads, queries))
        self.bytes = allocate("bytes", (self.quads, queries), "int32")
        self.top = allocate("top", (vectors, nest.lanes), scope="local")
        self.sums = allocate("sums", (vectors, nest.lanes), scope="local")
        self.counts = allocate("counts", (vectors, nest.lanes), "int32", "local")
        self.moved = allocate("moved", (queries,), "int32")
        self.looked = allocate("looked", (form.depth,), "uint8") if form.tables[0] else None

    def write(self) -> Stmt:
        """All statements of the block."""
        parts = [self._turn(), self._start(), self._score(), self._exponentiate(), self._weigh(), self._multiply()]
        return make_sequence(parts)

    # Queries

    def _first_query(self, vector: Expr) -> Expr:
        """The first query of a vector of the block. The last vector may begin earlier."""
        begin = (self.block * self.nest.vectors + vector) * self.nest.lanes
        whole = self.form.queries % self.nest.lanes == 0
        return begin if whole else bound_index(begin, self.form.queries - self.nest.lanes)

    def _query(self, row: Expr) -> Expr:
        """The query of a row of the block."""
        lanes = make_index(self.nest.lanes)
        return self._first_query(row // lanes) + row % lanes

    def _turn(self) -> Stmt:
        """Transpose the quads or pairs of the queries, as signed numbers."""
        from tvm import tirx

        vector, lane, quad = make_counter("vector"), make_counter("lane"), make_counter("quad")
        query, at = self._first_query(vector) + lane, vector * self.nest.lanes + lane
        along = tirx.Ramp(quad * self.together, make_index(1), self.together)
        before: list[Stmt] = []
        if self.looked is None:
            found = self.elements.load("q", self.item, query=query, depth=along)
        else:
            before = [self.elements.look_up("q", self.looked, [], self.item, query=query)]
            found = load(self.looked, [along])
        if self.together == QUAD:
            signed = tirx.bitwise_xor(tirx.reinterpret("int32", found), tirx.const(SIGNS, "int32"))
        else:
            shift = tirx.Broadcast(tirx.const(128, "int16"), PAIR)
            signed = tirx.reinterpret("int32", found.astype(f"int16x{PAIR}") - shift)
        body = make_loop(quad, self.depth, store(self.turned, signed, [quad, at]), tirx.ForKind.UNROLLED)
        return make_loop(vector, self.vectors, make_loop(lane, self.nest.lanes, make_sequence([*before, body])))

    def _start(self) -> Stmt:
        """What the sums of products begin with: the part of the zero points that all keys share.

        sum((q - zq)(k - zk)) = sum(q' k) + (128 - zq) sum(k) - zk (sum(q') + depth (128 - zq)), for q' = q - 128
        """
        from tvm import tirx

        lanes, quad, vector = self.nest.lanes, make_counter("quad"), make_counter("vector")
        whole = [vector, self._whole(lanes)]
        ones = tirx.Broadcast(tirx.const(_ONES[self.together], "int32"), lanes)
        weights = load(self.turned, [quad, self._along(vector * lanes, lanes)])
        sums = store(self.start, self._add(load(self.start, whole), ones, weights), whole)
        moved = (tirx.const(128, "int32") - self.elements.zero("q")) * tirx.const(self.form.depth, "int32")

        def clear(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            zero = tirx.const(0, "int32")
            return [
                store(self.start, zero, [vector, lane]),
                store(self.counts, zero, [vector, lane]),
                store(self.top, number(LOWEST), [vector, lane]),
                store(self.sums, number(0.0), [vector, lane]),
            ]

        def finish(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            total = load(self.start, [vector, lane]) + moved
            return [store(self.start, tirx.const(0, "int32") - self.elements.zero("k") * total, [vector, lane])]

        body = make_loop(quad, self.depth, self._nested([(vector, self.vectors)], sums))
        return make_sequence([self._over_vectors(clear), body, self._over_vectors(finish)])

    # Scores

    def _key_quad(self, key: Expr, quad: Expr) -> Expr:
        """Four bytes or two int16 of a key, as int32."""
        from tvm import tirx

        along = self._along(quad * self.together, self.together)
        if self.shared.keys is not None:
            return tirx.reinterpret("int32", load(self.shared.keys, [key, along]))
        return tirx.reinterpret("int32", self.elements.load("k", self.item, key=key, depth=along))

    def _score(self) -> Stmt:
        """The scores by register tiles, and the largest score of each query."""
        from tvm import tirx

        form, nest, lanes = self.form, self.nest, self.nest.lanes
        tile, outer, inner = make_counter("tile"), make_counter("k"), make_counter("u")
        first = tile * nest.keys
        if form.keys % nest.keys:
            first = bound_index(first, form.keys - nest.keys)
        unroll = math.gcd(nest.unroll, self.depth)
        quad = outer * unroll + inner
        registers = self.elements.allocate(f"tile{self.vectors}", (nest.keys, self.vectors, lanes), "int32", "local")

        def clear(row: Expr, vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            value = load(self.start, [vector, lane]) + load(self.shared.key_sums, [first + row])
            return [store(registers, value, [row, vector, lane])]

        def finish(row: Expr, vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            query = self._first_query(vector) + lane
            value = self.elements.score(
                load(registers, [row, vector, lane]),
                lambda i: self.elements.load(f"mask{i}", self.item, query=query, key=first + row),
            )
            # The score is stored first, so that it is computed once: the search for the largest one reads it there.
            best = tirx.max(load(self.top, [vector, lane]), load(self.scores, [first + row, at]))
            return [store(self.scores, value, [first + row, at]), store(self.top, best, [vector, lane])]

        def over_keys(element: Callable[[Expr, Expr, Expr, Expr], list[Stmt]]) -> Stmt:
            row = make_counter("row")
            body = self._over_vectors(lambda vector, lane, at: element(row, vector, lane, at))
            return make_loop(row, nest.keys, body, tirx.ForKind.UNROLLED)

        row, vector = make_counter("row"), make_counter("vector")
        place = [row, vector, self._whole(lanes)]
        quads = tirx.Broadcast(self._key_quad(first + row, quad), lanes)
        weights = load(self.turned, [quad, self._along(vector * lanes, lanes)])
        add = store(registers, self._add(load(registers, place), quads, weights), place)
        add = self._nested([(row, nest.keys), (vector, self.vectors)], add)
        product = make_loop(outer, self.depth // unroll, self._nested([(inner, unroll)], add))
        body = make_sequence([over_keys(clear), product, over_keys(finish)])
        return make_loop(tile, -(-form.keys // nest.keys), body)

    def _exponentiate(self) -> Stmt:
        """Exponentials of the scores, and their sums. Scores that fill up the last quad have exponentials of 0."""
        form = self.form
        key, beyond = make_counter("key"), make_counter("key")

        def element(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            value = exp_below_zero(load(self.scores, [key, at]) - load(self.top, [vector, lane]))
            total = load(self.sums, [vector, lane]) + load(self.scores, [key, at])
            return [store(self.scores, value, [key, at]), store(self.sums, total, [vector, lane])]

        def fill(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            return [store(self.scores, number(0.0), [beyond + form.keys, at])]

        parts = [make_loop(key, form.keys, self._over_vectors(element))]
        gap = self.together * self.quads - form.keys
        if gap:
            parts.append(make_loop(beyond, gap, self._over_vectors(fill)))
        return make_sequence(parts)

    def _weigh(self) -> Stmt:
        """The bytes of the probabilities in quads of keys, and what their sums add to each row of the result."""
        from tvm import tirx

        lanes, quad, vector = self.nest.lanes, make_counter("quad"), make_counter("vector")
        factor = self.elements.scale(self.form.ends[0])

        def invert(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            total = tirx.max(load(self.sums, [vector, lane]), number(SMALLEST))
            return [store(self.sums, factor / total, [vector, lane])]

        def element(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            value = tirx.const(0, "int32")
            for place in range(self.together):
                score = load(self.scores, [quad * self.together + place, at])
                byte = self.elements.probability(score, load(self.sums, [vector, lane]))
                value = (
                    tirx.bitwise_or(value, byte << tirx.const(32 // self.together * place, "int32")) if place else byte
                )
            return [store(self.bytes, value, [quad, at])]

        def move(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            value = (tirx.const(128, "int32") - self.elements.zero("v")) * load(self.counts, [vector, lane])
            return [store(self.moved, value, [at])]

        whole = [vector, self._whole(lanes)]
        ones = tirx.Broadcast(tirx.const(_ONES[self.together], "int32"), lanes)
        quads = load(self.bytes, [quad, self._along(vector * lanes, lanes)])
        count = store(self.counts, self._add(load(self.counts, whole), quads, ones), whole)
        body = [self._over_vectors(element), self._nested([(vector, self.vectors)], count)]
        loop = make_loop(quad, self.quads, make_sequence(body))
        return make_sequence([self._over_vectors(invert), loop, self._over_vectors(move)])

    # Results

    def _multiply(self) -> Stmt:
        """The products of the probabilities and the values by register tiles."""
        from tvm import tirx

        nest, lanes = self.nest, self.nest.column_lanes
        tile, group, quad = make_counter("tile"), make_counter("group"), make_counter("quad")
        registers = self.elements.allocate(f"result{self.vectors}", (self.rows, nest.columns, lanes), "int32", "local")

        def over(write: Callable[[Expr, Expr, list[Expr]], Stmt]) -> Stmt:
            row, vector = make_counter("row"), make_counter("vector")
            body = write(tile * self.rows + row, self._column(group, vector), [row, vector])
            return self._nested([(row, self.rows), (vector, nest.columns)], body)

        def clear(at: Expr, column: Expr, place: list[Expr]) -> Stmt:
            return store(registers, tirx.Broadcast(load(self.moved, [at]), lanes), [*place, self._whole(lanes)])

        def add(at: Expr, column: Expr, place: list[Expr]) -> Stmt:
            whole = [*place, self._whole(lanes)]
            quads = tirx.Broadcast(load(self.bytes, [quad, at]), lanes)
            weights = load(self.shared.values, [quad, self._along(column, lanes)])
            return store(
                registers, add_quads(nest.result_product, lanes, load(registers, whole), quads, weights), whole
            )

        def put(at: Expr, column: Expr, place: list[Expr]) -> Stmt:
            lane = make_counter("lane")
            indices = self.elements.indices(self.form.out, self.item, query=self._query(at), width=column + lane)
            value = self.elements.result(load(registers, [*place, lane]))
            return make_loop(lane, lanes, store(self.elements.params["out"], value, indices), tirx.ForKind.VECTORIZED)

        body = make_sequence([over(clear), make_loop(quad, self.quads, over(add)), over(put)])
        groups = -(-self._column_vectors // nest.columns)
        return make_loop(tile, self.vectors * nest.lanes // self.rows, make_loop(group, groups, body))

    @property
    def _column_vectors(self) -> int:
        return -(-self.form.width // self.nest.column_lanes)

    def _column(self, group: Expr, vector: Expr) -> Expr:
        """The first column of a vector. The last vector may begin earlier."""
        nest, width = self.nest, self.form.width
        at = group * nest.columns + vector
        if self._column_vectors % nest.columns:
            at = bound_index(at, self._column_vectors - 1)
        begin = at * nest.column_lanes
        return begin if width % nest.column_lanes == 0 else bound_index(begin, width - nest.column_lanes)

    # Vectors

    def _add(self, sums: Expr, quads: Expr, weights: Expr) -> Expr:
        return add_quads(self.nest.score_product, self.nest.lanes, sums, quads, weights)

    def _along(self, first: Expr, lanes: int) -> Expr:
        from tvm import tirx

        return tirx.Ramp(first, make_index(1), lanes)

    def _whole(self, lanes: int) -> Expr:
        return self._along(make_index(0), lanes)

    def _over_vectors(self, element: _Element) -> Stmt:
        """The statements at each vector, lane, and query of the block."""
        from tvm import tirx

        vector, lane, lanes = make_counter("vector"), make_counter("lane"), self.nest.lanes
        statements = element(vector, lane, vector * lanes + lane)
        body = make_loop(lane, lanes, make_sequence(statements), tirx.ForKind.VECTORIZED)
        return self._nested([(vector, self.vectors)], body)

    def _nested(self, loops: list[tuple[Var, int]], body: Stmt) -> Stmt:
        """A statement in loops that are written out, the outermost first."""
        from tvm import tirx

        for counter, extent in reversed(loops):
            body = make_loop(counter, extent, body, tirx.ForKind.UNROLLED)
        return body
