"""Writes the statements of one block of queries of an attention (:mod:`tilewright.ops.attention.program`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from tilewright.ops.attention.elements import Elements
from tilewright.ops.attention.turning import turn_square
from tilewright.ops.elementwise.exponential import exp_below_zero, log
from tilewright.ops.elementwise.float32 import number, select
from tilewright.ops.statements import bound_index, load, make_counter, make_index, make_loop, make_sequence, store

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["Block"]

#: The score that the search for the largest one begins with, as of ``te.max``: in a row of minus infinity alone, all
#: exponentials are 0.
_LOWEST = -3.4028234663852886e38
#: The smallest sum of exponentials of a safe softmax.
_SMALLEST = 1e-30

#: The statements at a row and a vector of a tile.
_Element: TypeAlias = "Callable[[Expr, Expr, Expr], list[Stmt]]"


class Block:
    """Writes the statements of one block of queries.

    Args:
        writer: of the tensors.
        item: the matrix of the batch.
        block: the number of the block.
        vectors: vectors of queries in the block.
    """

    def __init__(self, writer: Elements, item: Expr, block: Expr, vectors: int) -> None:
        self.writer, self.item, self.block, self.vectors = writer, item, block, vectors
        self.attention, self.nest = writer.attention, writer.nest
        attention, nest = self.attention, self.nest
        self.rows = math.gcd(nest.rows, vectors * nest.lanes)
        self.stripes = -(-attention.keys // nest.stripe)
        self.tile = min(nest.keys, attention.keys)
        stripe = min(nest.stripe, attention.keys)
        queries, allocate = vectors * nest.lanes, writer.allocate
        name = f"{vectors}" if nest.written_out else ""
        self.turned = allocate(f"queries{name}", (attention.depth, queries))
        # The last tile of a stripe begins earlier, even before the stripe, which has room for that.
        self.scores = allocate(f"scores{name}", (stripe + self.tile, queries))
        self.top = allocate(f"top{name}", (vectors, nest.lanes), "local")
        self.sums = allocate(f"sums{name}", (vectors, nest.lanes), "local")
        self.factor = allocate(f"factor{name}", (queries,))
        self.before = self.result = None
        if self.stripes > 1:
            self.before = allocate(f"before{name}", (vectors, nest.lanes), "local")
            self.result = allocate(f"result{name}", (queries, self._groups * nest.columns * nest.column_lanes))

    def write(self) -> Stmt:
        """All statements of the block."""
        from tvm import tirx

        if self.stripes == 1:
            first, end = make_index(0), self._limit()
            parts = [
                self._score(first, end),
                self._exponentiate(first, end),
                self._invert(),
                self._multiply(first, end),
            ]
            return make_sequence([self._turn(), self._start(), *parts])
        stripe, length = make_counter("stripe"), make_index(self.nest.stripe)
        first = stripe * length
        end = tirx.min(first + length, self._limit())
        parts = [self._keep_top(), self._score(first, end), self._rescale(), self._exponentiate(first, end)]
        body = make_sequence([*parts, self._multiply(first, end)])
        count = (self._limit() + (length - 1)) // length
        stripes = tirx.For(stripe, make_index(0), count, tirx.ForKind.SERIAL, body)
        return make_sequence([self._turn(), self._start(), stripes, self._invert(), self._write_result()])

    # Queries

    def _query(self, row: Expr) -> Expr:
        """The query of a row of the block."""
        nest = self.nest
        vector = self._first_query(row // make_index(nest.lanes)) if nest.lanes > 1 else self._first_query(row)
        return vector + row % make_index(nest.lanes) if nest.lanes > 1 else vector

    def _first_query(self, vector: Expr) -> Expr:
        """The first query of a vector of the block."""
        attention, nest = self.attention, self.nest
        begin = (self.block * nest.vectors + vector) * nest.lanes
        whole = attention.queries % nest.lanes == 0
        return begin if whole else bound_index(begin, attention.queries - nest.lanes)

    def _limit(self) -> Expr:
        """The number of keys that the block reads."""
        attention, nest = self.attention, self.nest
        if not (attention.causal and nest.written_out):
            return make_index(attention.keys)
        last = self._first_query(make_index(self.vectors - 1)) + nest.lanes
        return last + (attention.keys - attention.queries)

    def _turn(self) -> Stmt:
        """Scale and transpose the queries."""
        attention, writer = self.attention, self.writer
        if self._squares:
            return self._turn_vectors()
        column = make_counter("d")

        def element(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            query = self._first_query(vector) + lane
            value = writer.load("q", attention.q, self.item, query=query, depth=column)
            if attention.scale != 1.0:
                value = value * number(attention.scale)
            return [store(self.turned, value, [column, at])]

        return make_loop(column, attention.depth, self._over_vectors(element))

    @property
    def _squares(self) -> bool:
        """Whether the queries can be transposed by squares of vectors: their columns lie side by side."""
        attention, nest = self.attention, self.nest
        sides = nest.written_out and 1 < nest.lanes <= attention.depth
        return sides and attention.q[-1][1] == ("depth", 0)

    def _turn_vectors(self) -> Stmt:
        """Scale and transpose the queries by squares of vectors."""
        from tvm import tirx

        attention, lanes, writer = self.attention, self.nest.lanes, self.writer
        chunk, vector = make_counter("chunk"), make_counter("vector")
        first = bound_index(chunk * lanes, attention.depth - lanes)
        along = tirx.Ramp(first, make_index(1), lanes)
        scale = tirx.Broadcast(number(attention.scale), lanes)
        rows = []
        for row in range(lanes):
            query = self._first_query(vector) + row
            rows.append(writer.load("q", attention.q, self.item, query=query, depth=along) * scale)
        statements, turned = turn_square(writer, rows, f"square_{self.vectors}")
        at = tirx.Ramp(vector * lanes, make_index(1), lanes)
        statements += [store(self.turned, value, [first + row, at]) for row, value in enumerate(turned)]
        body = make_loop(chunk, -(-attention.depth // lanes), make_sequence(statements))
        return make_loop(vector, self.vectors, body)

    def _start(self) -> Stmt:
        def element(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            return [store(self.top, number(_LOWEST), [vector, lane]), store(self.sums, number(0.0), [vector, lane])]

        if self.result is None:
            return self._over_vectors(element)
        row, column = make_counter("row"), make_counter("column")
        clear = store(self.result, number(0.0), [row, column])
        columns = self._groups * self.nest.columns * self.nest.column_lanes
        rows = make_loop(row, self.vectors * self.nest.lanes, make_loop(column, columns, clear))
        return make_sequence([self._over_vectors(element), rows])

    # Scores

    def _score(self, first: Expr, end: Expr) -> Stmt:
        """The scores of a stripe by register tiles, and the largest score of each query."""
        from tvm import tirx

        attention, nest, writer = self.attention, self.nest, self.writer
        tile = make_counter("tile")
        begin = first + tile * self.tile
        if attention.keys % self.tile:
            begin = bound_index(begin, attention.keys - self.tile)
        registers = writer.allocate(f"tile{self.vectors}", (self.tile, self.vectors, nest.lanes), "local")
        outer, inner = make_counter("k"), make_counter("u")
        unroll = math.gcd(nest.unroll, attention.depth)
        column = outer * unroll + inner

        def clear(row: Expr, vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            return [store(registers, number(0.0), [row, vector, lane])]

        def add(row: Expr, vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            key = writer.read("k", self.item, begin + row, column)
            value = load(self.turned, [column, at]) * key
            return [store(registers, load(registers, [row, vector, lane]) + value, [row, vector, lane])]

        def finish(row: Expr, vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            value = load(registers, [row, vector, lane])
            query = self._first_query(vector) + lane
            for i, dims in enumerate(attention.masks):
                value = value + writer.load(f"mask{i}", dims, self.item, query=query, key=begin + row)
            if attention.causal:
                seen = begin + row <= query + (attention.keys - attention.queries)
                value = select(seen, value, number(-math.inf))
            # The score is stored first, so that it is computed once: the search for the largest one reads it there.
            place = [begin + row - first + self.tile, at]
            best = tirx.max(load(self.top, [vector, lane]), load(self.scores, place))
            return [store(self.scores, value, place), store(self.top, best, [vector, lane])]

        product = make_loop(inner, unroll, self._over_tile(add), writer.unrolled)
        product = make_loop(outer, attention.depth // unroll, product)
        body = make_sequence([self._over_tile(clear), product, self._over_tile(finish)])
        count = (end - first + (self.tile - 1)) // make_index(self.tile)
        return tirx.For(tile, make_index(0), count, tirx.ForKind.SERIAL, body)

    def _keep_top(self) -> Stmt:
        """Keep the largest scores of the stripes before this one."""
        return self._over_vectors(
            lambda vector, lane, at: [store(self.before, load(self.top, [vector, lane]), [vector, lane])]
        )

    def _rescale(self) -> Stmt:
        """The factor of what was summed before a larger score was found, and the sums times it."""

        def element(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            value = exp_below_zero(load(self.before, [vector, lane]) - load(self.top, [vector, lane]))
            total = load(self.sums, [vector, lane]) * load(self.factor, [at])
            return [store(self.factor, value, [at]), store(self.sums, total, [vector, lane])]

        return self._over_vectors(element)

    def _exponentiate(self, first: Expr, end: Expr) -> Stmt:
        """Exponentials of a stripe's scores, and their sums."""
        from tvm import tirx

        key = make_counter("key")

        def element(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            place = [key + self.tile, at]
            value = exp_below_zero(load(self.scores, place) - load(self.top, [vector, lane]))
            total = load(self.sums, [vector, lane]) + load(self.scores, place)
            return [store(self.scores, value, place), store(self.sums, total, [vector, lane])]

        return tirx.For(key, make_index(0), end - first, tirx.ForKind.SERIAL, self._over_vectors(element))

    def _invert(self) -> Stmt:
        """The inverse of the sum of each query, and the logarithm of the sum of exponentials if it is wanted."""
        from tvm import tirx

        def element(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            total = load(self.sums, [vector, lane])
            if self.attention.safe:
                total = tirx.max(total, number(_SMALLEST))
            inverse = number(1.0) / total
            if self.attention.finite:  # a nan is not above 0
                inverse = select(total > number(0.0), inverse, number(0.0))
            statements = [store(self.factor, inverse, [at])]
            if self.attention.sums:
                value = log(total) + load(self.top, [vector, lane])
                query = self._first_query(vector) + lane
                statements.append(store(self.writer.params["sums"], value, [self.item, query]))
            return statements

        return self._over_vectors(element)

    # Results

    def _multiply(self, first: Expr, end: Expr) -> Stmt:
        """The products of a stripe's exponentials and values by register tiles."""
        from tvm import tirx

        nest, writer = self.nest, self.writer
        tile, group, key = make_counter("tile"), make_counter("group"), make_counter("key")
        registers = writer.allocate(f"tile{self.vectors}", (self.rows, nest.columns, nest.column_lanes), "local")

        def kept(row: Expr, vector: Expr, lane: Expr) -> list[Expr]:
            return [tile * self.rows + row, (group * nest.columns + vector) * nest.column_lanes + lane]

        def start(row: Expr, vector: Expr, lane: Expr) -> list[Stmt]:
            value = number(0.0)
            if self.result is not None:
                value = load(self.result, kept(row, vector, lane)) * load(self.factor, [tile * self.rows + row])
            return [store(registers, value, [row, vector, lane])]

        def add(row: Expr, vector: Expr, lane: Expr) -> list[Stmt]:
            score = load(self.scores, [key + self.tile, tile * self.rows + row])
            value = writer.read("v", self.item, first + key, self._column(group, vector) + lane)
            return [store(registers, load(registers, [row, vector, lane]) + score * value, [row, vector, lane])]

        def finish(row: Expr, vector: Expr, lane: Expr) -> list[Stmt]:
            value = load(registers, [row, vector, lane])
            if self.result is not None:
                return [store(self.result, value, kept(row, vector, lane))]
            return [self._put(tile * self.rows + row, self._column(group, vector) + lane, value)]

        product = tirx.For(key, make_index(0), end - first, tirx.ForKind.SERIAL, self._over_result(add))
        body = make_sequence([self._over_result(start), product, self._over_result(finish)])
        return make_loop(tile, self.vectors * nest.lanes // self.rows, make_loop(group, self._groups, body))

    def _put(self, row: Expr, column: Expr, value: Expr) -> Stmt:
        """Store an element of the result, which has yet to be divided by its row's sum."""
        indices = self.writer.indices(self.attention.out, self.item, query=self._query(row), width=column)
        factor = load(self.factor, [row])
        divided = value * factor
        if self.attention.finite:  # the sums of a row without a sum of exponentials may be nan
            divided = select(factor > number(0.0), divided, number(0.0))
        return store(self.writer.params["out"], divided, indices)

    def _write_result(self) -> Stmt:
        """Store the result that was kept from stripe to stripe."""
        row, group = make_counter("row"), make_counter("group")
        vector, lane = make_counter("vector"), make_counter("lane")
        nest = self.nest
        value = load(self.result, [row, (group * nest.columns + vector) * nest.column_lanes + lane])
        body = self._over_lanes(lane, nest.column_lanes, [self._put(row, self._column(group, vector) + lane, value)])
        body = make_loop(group, self._groups, make_loop(vector, nest.columns, body))
        return make_loop(row, self.vectors * nest.lanes, body)

    @property
    def _groups(self) -> int:
        """Register tiles that the columns make."""
        return -(-self._column_vectors // self.nest.columns)

    @property
    def _column_vectors(self) -> int:
        return -(-self.attention.width // self.nest.column_lanes)

    def _column(self, group: Expr, vector: Expr) -> Expr:
        """The first column of a vector."""
        nest, width = self.nest, self.attention.width
        at = group * nest.columns + vector
        if self._column_vectors % nest.columns:
            at = bound_index(at, self._column_vectors - 1)
        begin = at * nest.column_lanes
        return begin if width % nest.column_lanes == 0 else bound_index(begin, width - nest.column_lanes)

    # Loops

    def _over_vectors(self, element: _Element) -> Stmt:
        """The statements at each vector, lane, and query of the block."""
        vector, lane = make_counter("vector"), make_counter("lane")
        statements = element(vector, lane, vector * self.nest.lanes + lane)
        body = self._over_lanes(lane, self.nest.lanes, statements)
        return make_loop(vector, self.vectors, body, self.writer.unrolled)

    def _over_tile(self, element: Callable[[Expr, Expr, Expr, Expr], list[Stmt]]) -> Stmt:
        """The statements at each key and vector of queries of a register tile of scores."""
        row = make_counter("row")
        body = self._over_vectors(lambda vector, lane, at: element(row, vector, lane, at))
        return make_loop(row, self.tile, body, self.writer.unrolled)

    def _over_result(self, element: _Element) -> Stmt:
        """The statements at each query and vector of columns of a register tile of results."""
        row, vector, lane = make_counter("row"), make_counter("vector"), make_counter("lane")
        body = self._over_lanes(lane, self.nest.column_lanes, element(row, vector, lane))
        body = make_loop(vector, self.nest.columns, body, self.writer.unrolled)
        return make_loop(row, self.rows, body, self.writer.unrolled)

    def _over_lanes(self, lane: Var, lanes: int, statements: list[Stmt]) -> Stmt:
        return make_loop(lane, lanes, make_sequence(statements), self.writer.vectorized if lanes > 1 else None)
