"""Writes the statements of one block of queries of an attention's gradient.

:mod:`tilewright.ops.attention_gradient.program` explains the loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from tilewright.ops.attention.elements import Tensors
from tilewright.ops.attention.form import Dims
from tilewright.ops.attention.turning import turn_square
from tilewright.ops.attention_gradient.form import AttentionGradient
from tilewright.ops.attention_gradient.nest import Nest
from tilewright.ops.elementwise.exponential import exp_below_zero
from tilewright.ops.elementwise.float32 import number, select
from tilewright.ops.statements import bound_index, load, make_counter, make_index, make_loop, make_sequence, store

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["Block", "Columns", "Scratch"]

#: The statements at a row, a vector and a lane of a register tile.
_Element: TypeAlias = "Callable[[Expr, Expr, Expr], list[Stmt]]"


class Columns:
    """The columns of a matrix, cut into groups of vectors. The last vectors begin earlier, and hold some columns twice.

    Attributes:
        groups: of vectors, each for a register tile.
        count: columns of a buffer with room for all groups.

    Args:
        tensors: of the function.
        nest: how the loops are arranged.
        extent: the columns.
    """

    def __init__(self, tensors: Tensors, nest: Nest, extent: int) -> None:
        self._tensors, self._lanes, self._extent = tensors, nest.column_lanes, extent
        self._vectors = -(-extent // nest.column_lanes)
        self.groups = -(-self._vectors // nest.columns)
        self._all = self.groups * nest.columns
        self.count = self._all * nest.column_lanes

    def first(self, vector: Expr) -> Expr:
        """The first column of a vector."""
        at = bound_index(vector, self._vectors - 1) if self._all > self._vectors else vector
        begin = at * self._lanes
        return begin if self._extent % self._lanes == 0 else bound_index(begin, self._extent - self._lanes)

    def kept(self, vector: Expr) -> Expr:
        """The first column of a vector in a buffer with room for all groups."""
        return vector * self._lanes

    def over_vectors(self, vector: Var, lane: Var, body: Stmt) -> Stmt:
        """The statement at each lane of each vector of all groups."""
        lanes = make_loop(lane, self._lanes, body, self._tensors.vectorized if self._lanes > 1 else None)
        return make_loop(vector, self._all, lanes, self._tensors.unrolled)


class Scratch:
    """The buffers of a matrix, which the blocks of queries share.

    Attributes:
        keys: the keys, and those that fill the last tile.
        depth, width: the columns of queries and keys, and of values.
        queries, gradients: ``(columns, queries)`` Q^T, scaled, and dO^T.
        probabilities, slopes: ``(keys, queries)`` P^T and dS^T.
        dots: ``(queries,)`` D.
        dk, dv: ``(keys, columns)`` the sums over the blocks so far.

    Args:
        form: the operator.
        tensors: of the function.
        nest: how the loops are arranged.
    """

    def __init__(self, form: AttentionGradient, tensors: Tensors, nest: Nest) -> None:
        attention, queries = form.attention, nest.vectors * nest.lanes
        self.keys = -(-attention.keys // nest.keys) * nest.keys
        self.depth, self.width = (Columns(tensors, nest, n) for n in (attention.depth, attention.width))
        self.queries = tensors.allocate("queries", (attention.depth, queries))
        self.gradients = tensors.allocate("gradients", (attention.width, queries))
        self.probabilities = tensors.allocate("probabilities", (self.keys, queries))
        self.slopes = tensors.allocate("slopes", (self.keys, queries))
        self.dots = tensors.allocate("dots", (queries,))
        self.dk = tensors.allocate("sums_of_keys", (self.keys, self.depth.count))
        self.dv = tensors.allocate("sums_of_values", (self.keys, self.width.count))


class Block:
    """Writes the statements of one block of queries.

    Args:
        form: the operator.
        tensors: of the function.
        nest: how the loops are arranged.
        scratch: the buffers of the matrix.
        item: the matrix of the batch.
        begin: the first query.
        count: the queries.
    """

    def __init__(
        self,
        form: AttentionGradient,
        tensors: Tensors,
        nest: Nest,
        scratch: Scratch,
        item: Expr,
        begin: Expr,
        count: int,
    ) -> None:
        self.form, self.attention, self.nest = form, form.attention, nest
        self.tensors, self.scratch = tensors, scratch
        self.item, self.begin, self.count = item, begin, count
        self.vectors = -(-count // nest.lanes)
        self.rows = min(nest.rows, count)

    def write(self) -> Stmt:
        """All statements of the block."""
        s = self.scratch
        return make_sequence(
            [
                *self._turn(),
                self._score(),
                self._sum("gradient", self.form.gradient, "width", s.probabilities, s.dv),
                self._sum("q", self.attention.q, "depth", s.slopes, s.dk),
                self._multiply(),
            ]
        )

    def _query(self, vector: Expr, lane: Expr) -> Expr:
        """The query of a lane. The last ones of a vector may be copies of the last query."""
        query = self.begin + vector * self.nest.lanes + lane
        return bound_index(query, self.attention.queries - 1) if self.count % self.nest.lanes else query

    @property
    def _limit(self) -> Expr | None:
        """The number of keys that the block reads; None: all."""
        form = self.attention
        if not (form.causal and self.nest.written_out):
            return None
        return self.begin + (self.count + form.keys - form.queries)

    # Transposed operands

    def _turn(self) -> list[Stmt]:
        """Q^T, dO^T and D."""
        form, s = self.attention, self.scratch
        width = form.extents(form.out)
        result = [
            self._turn_operand("q", form.q, "depth", s.queries, form.scale),
            self._turn_operand("gradient", self.form.gradient, "width", s.gradients, 1.0),
        ]
        if self._squares(form.width) and form.width % self.nest.lanes == 0:
            return [*result, self._sum_squares(width)]
        column = make_counter("column")

        def clear(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            return [store(s.dots, number(0.0), [at])]

        def add(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            value = self.tensors.load("out", width, self.item, query=self._query(vector, lane), width=column)
            return [store(s.dots, load(s.dots, [at]) + load(s.gradients, [column, at]) * value, [at])]

        dots = make_loop(column, form.width, self._over_vectors(add))
        return [*result, self._over_vectors(clear), dots]

    def _squares(self, columns: int) -> bool:
        """Whether rows can be transposed by squares of vectors."""
        return self.nest.written_out and 1 < self.nest.lanes <= columns

    def _turn_operand(self, name: str, dims: Dims, axis: str, turned: Var, scale: float) -> Stmt:
        """Transpose the rows of an operand, times a factor."""
        from tvm import tirx

        columns = getattr(self.attention, axis)
        if not self._squares(columns):
            column = make_counter("column")

            def element(vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
                axes = {"query": self._query(vector, lane), axis: column}
                value = self.tensors.load(name, dims, self.item, **axes)
                return [store(turned, value * number(scale) if scale != 1.0 else value, [column, at])]

            return make_loop(column, columns, self._over_vectors(element))
        lanes = self.nest.lanes
        chunk, vector = make_counter("chunk"), make_counter("vector")
        first = bound_index(chunk * lanes, columns - lanes)
        along = tirx.Ramp(first, make_index(1), lanes)
        rows = []
        for lane in range(lanes):
            axes = {"query": self._query(vector, make_index(lane)), axis: along}
            value = self.tensors.load(name, dims, self.item, **axes)
            rows.append(value * tirx.Broadcast(number(scale), lanes) if scale != 1.0 else value)
        statements, found = turn_square(self.tensors, rows, f"{name}_square_{self.vectors}")
        at = tirx.Ramp(vector * lanes, make_index(1), lanes)
        statements += [store(turned, value, [first + row, at]) for row, value in enumerate(found)]
        body = make_loop(chunk, -(-columns // lanes), make_sequence(statements))
        return make_loop(vector, self.vectors, body)

    def _sum_squares(self, out: Dims) -> Stmt:
        """D: the products of a row of dO and O are added to one vector, and the lanes of several rows by a square."""
        from tvm import tirx

        lanes, vector = self.nest.lanes, make_counter("vector")
        rows = []
        for lane in range(lanes):
            query, total = self._query(vector, make_index(lane)), None
            for chunk in range(self.attention.width // lanes):
                along = tirx.Ramp(make_index(chunk * lanes), make_index(1), lanes)
                axes = {"query": query, "width": along}
                value = self.tensors.load("gradient", self.form.gradient, self.item, **axes)
                value = value * self.tensors.load("out", out, self.item, **axes)
                total = value if total is None else total + value
            rows.append(total)
        statements, found = turn_square(self.tensors, rows, f"dots_square_{self.vectors}")
        while len(found) > 1:
            found = [a + b for a, b in zip(found[::2], found[1::2], strict=True)]
        statements.append(store(self.scratch.dots, found[0], [tirx.Ramp(vector * lanes, make_index(1), lanes)]))
        return make_loop(vector, self.vectors, make_sequence(statements))

    # Scores

    def _score(self) -> Stmt:
        """Probabilities and slopes by register tiles."""
        form, s, nest = self.attention, self.scratch, self.nest
        tile = make_counter("tile")
        registers = self.tensors.allocate(f"scores_{self.vectors}", (nest.keys, self.vectors, nest.lanes), "local")
        first = tile * nest.keys

        def finish(row: Expr, vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            query, place = self._query(vector, lane), [first + row, at]
            sums = load(self.tensors.params["sums"], [self.item, query])
            value = exp_below_zero(load(registers, [row, vector, lane]) - sums)
            if form.causal:
                seen = first + row <= query + (form.keys - form.queries)
                value = select(seen, value, number(0.0))
            return [store(s.probabilities, value, place)]

        def slope(row: Expr, vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            place = [first + row, at]
            value = load(s.probabilities, place) * (load(registers, [row, vector, lane]) - load(s.dots, [at]))
            return [store(s.slopes, value, place)]

        body = make_sequence(
            [
                *self._product(registers, "k", form.k, "depth", s.queries, first),
                self._over_tile(finish),
                *self._product(registers, "v", form.v, "width", s.gradients, first),
                self._over_tile(slope),
            ]
        )
        return self._over_tiles(tile, body)

    def _product(self, registers: Var, name: str, dims: Dims, axis: str, turned: Var, first: Expr) -> list[Stmt]:
        """A register tile of the product of keys or values with a transposed operand."""
        form = self.attention
        columns = getattr(form, axis)
        unroll = math.gcd(self.nest.unroll, columns)
        outer, inner = make_counter("outer"), make_counter("inner")
        column = outer * unroll + inner
        full = form.keys % self.nest.keys == 0

        def clear(row: Expr, vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            return [store(registers, number(0.0), [row, vector, lane])]

        def add(row: Expr, vector: Expr, lane: Expr, at: Expr) -> list[Stmt]:
            key = first + row if full else bound_index(first + row, form.keys - 1)
            factor = self.tensors.load(name, dims, self.item, **{"key": key, axis: column})
            value = load(turned, [column, at]) * factor
            return [store(registers, load(registers, [row, vector, lane]) + value, [row, vector, lane])]

        product = make_loop(inner, unroll, self._over_tile(add), self.tensors.unrolled)
        return [self._over_tile(clear), make_loop(outer, columns // unroll, product)]

    # Gradients

    def _sum(self, name: str, dims: Dims, axis: str, scores: Var, sums: Var) -> Stmt:
        """Add the products of a block's scores and rows to the gradient of values or of keys."""
        nest = self.nest
        columns = getattr(self.scratch, axis)
        tile, group, query = make_counter("tile"), make_counter("group"), make_counter("query")
        registers = self.tensors.allocate("sums", (nest.keys, nest.columns, nest.column_lanes), "local")

        def kept(row: Expr, vector: Expr, lane: Expr) -> list[Expr]:
            return [tile * nest.keys + row, columns.kept(group * nest.columns + vector) + lane]

        def start(row: Expr, vector: Expr, lane: Expr) -> list[Stmt]:
            return [store(registers, load(sums, kept(row, vector, lane)), [row, vector, lane])]

        def add(row: Expr, vector: Expr, lane: Expr) -> list[Stmt]:
            axes = {"query": self.begin + query, axis: columns.first(group * nest.columns + vector) + lane}
            factor = load(scores, [tile * nest.keys + row, query])
            value = factor * self.tensors.load(name, dims, self.item, **axes)
            return [store(registers, load(registers, [row, vector, lane]) + value, [row, vector, lane])]

        def finish(row: Expr, vector: Expr, lane: Expr) -> list[Stmt]:
            return [store(sums, load(registers, [row, vector, lane]), kept(row, vector, lane))]

        loops = [self._over_columns(nest.keys, element) for element in (start, add, finish)]
        loops[1] = make_loop(query, self.count, loops[1])
        return self._over_tiles(tile, make_loop(group, columns.groups, make_sequence(loops)))

    def _multiply(self) -> Stmt:
        """The gradient of the block's queries."""
        from tvm import tirx

        form, nest, columns = self.attention, self.nest, self.scratch.depth
        tile, group, key = make_counter("tile"), make_counter("group"), make_counter("key")
        registers = self.tensors.allocate(f"results_{self.rows}", (self.rows, nest.columns, nest.column_lanes), "local")
        first = tile * self.rows
        if self.count % self.rows:
            first = bound_index(first, self.count - self.rows)

        def column(vector: Expr, lane: Expr) -> Expr:
            return columns.first(group * nest.columns + vector) + lane

        def start(row: Expr, vector: Expr, lane: Expr) -> list[Stmt]:
            return [store(registers, number(0.0), [row, vector, lane])]

        def add(row: Expr, vector: Expr, lane: Expr) -> list[Stmt]:
            value = self.tensors.load("k", form.k, self.item, key=key, depth=column(vector, lane))
            value = load(self.scratch.slopes, [key, first + row]) * value
            return [store(registers, load(registers, [row, vector, lane]) + value, [row, vector, lane])]

        def finish(row: Expr, vector: Expr, lane: Expr) -> list[Stmt]:
            value = load(registers, [row, vector, lane])
            if form.scale != 1.0:
                value = value * number(form.scale)
            axes = {"query": self.begin + first + row, "depth": column(vector, lane)}
            indices = self.tensors.indices([place for _, place in self.form.dq], self.item, **axes)
            return [store(self.tensors.params[self.form.result_of("dq")], value, indices)]

        loops = [self._over_columns(self.rows, element) for element in (start, add, finish)]
        limit = make_index(form.keys) if self._limit is None else self._limit
        loops[1] = tirx.For(key, make_index(0), limit, tirx.ForKind.SERIAL, loops[1])
        body = make_loop(group, columns.groups, make_sequence(loops))
        return make_loop(tile, -(-self.count // self.rows), body)

    # Loops

    def _over_tiles(self, tile: Var, body: Stmt) -> Stmt:
        """The statement at each tile of the keys that the block reads."""
        from tvm import tirx

        if self._limit is None:
            return make_loop(tile, self.scratch.keys // self.nest.keys, body)
        count = (self._limit + (self.nest.keys - 1)) // make_index(self.nest.keys)
        return tirx.For(tile, make_index(0), count, tirx.ForKind.SERIAL, body)

    def _over_vectors(self, element: _Element) -> Stmt:
        """The statements at each vector, lane, and query of the block."""
        vector, lane = make_counter("vector"), make_counter("lane")
        statements = element(vector, lane, vector * self.nest.lanes + lane)
        body = self._over_lanes(lane, self.nest.lanes, statements)
        return make_loop(vector, self.vectors, body, self.tensors.unrolled)

    def _over_tile(self, element: Callable[[Expr, Expr, Expr, Expr], list[Stmt]]) -> Stmt:
        """The statements at each key and vector of queries of a register tile of scores."""
        row = make_counter("row")
        body = self._over_vectors(lambda vector, lane, at: element(row, vector, lane, at))
        return make_loop(row, self.nest.keys, body, self.tensors.unrolled)

    def _over_columns(self, rows: int, element: _Element) -> Stmt:
        """The statements at each row and vector of columns of a register tile."""
        row, vector, lane = make_counter("row"), make_counter("vector"), make_counter("lane")
        body = self._over_lanes(lane, self.nest.column_lanes, element(row, vector, lane))
        body = make_loop(vector, self.nest.columns, body, self.tensors.unrolled)
        return make_loop(row, rows, body, self.tensors.unrolled)

    def _over_lanes(self, lane: Var, lanes: int, statements: list[Stmt]) -> Stmt:
        return make_loop(lane, lanes, make_sequence(statements), self.tensors.vectorized if lanes > 1 else None)
