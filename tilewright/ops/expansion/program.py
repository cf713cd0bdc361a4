"""Writes the program of an expansion: rows of the map between both convolutions stay in a core's own cache.

parallel for n, part of the rows, group of blocks:
    for pass of some rows of results:
        for row of the map that these rows read and no earlier pass has made:
            for tile of columns:                    registers: S[block, column, lanes] += X[column, channel] * W
                ring[block, row % rows of the ring, column, lanes] = what follows of S
        for block of the group, row of the pass:
            a row of the depthwise convolution, which reads the ring (:mod:`tilewright.ops.depthwise.program`)

The ring holds as many rows as a pass reads. The first pass of a part makes all of its rows, so the parts of a block
share rows that both compute: the kernel's rows, less the stride. All groups of a part come one after the other, so that
a core reads few rows of the data, which it has often written itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.ops.depthwise.row_writer import RowWriter
from tilewright.ops.expansion.form import Expansion
from tilewright.ops.statements import load, make_counter, make_index, make_loop, make_sequence, store
from tilewright.ops.written import declare, write_after

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["Nest", "ring_rows", "write_expansion"]


@dataclass(frozen=True)
class Nest:
    """How the loops are arranged.

    Attributes:
        blocks: of channels in a group.
        tile: columns of a tile of the 1x1 convolution.
        unroll: input channels that are written out.
        columns: of a tile of the depthwise convolution.
        rows: of results in a pass.
        parts: into which the rows of results are cut.
        parallel: whether parts run in parallel.
    """

    blocks: int
    tile: int
    unroll: int
    columns: int
    rows: int
    parts: int
    parallel: bool


def ring_rows(form: Expansion, rows: int) -> int:
    """Rows of the map that a pass of ``rows`` rows of results reads."""
    window = form.depthwise.rows
    return min(window.size, (rows - 1) * window.stride + (window.taps - 1) * window.dilation + 1)


def write_expansion(form: Expansion, nest: Nest) -> tuple[Stmt, list[Var]]:
    """The statements of an expansion, and the buffers that they need."""
    writer = _Writer(form, nest)
    return writer.write(), writer.buffers


class _Writer:
    def __init__(self, form: Expansion, nest: Nest) -> None:
        self.form, self.nest = form, nest
        self.depth = ring_rows(form, nest.rows)
        _, columns = form.pixels
        lanes = form.depthwise.lanes
        self.ring = declare("ring", (nest.blocks, self.depth, columns, lanes))
        self.buffers: list[Var] = [self.ring]

    def write(self) -> Stmt:
        """All statements."""
        from tvm import tirx

        form, nest = self.form.depthwise, self.nest
        passes = -(-form.rows.outputs // nest.rows)
        each = -(-passes // nest.parts)
        parts = -(-passes // each)
        groups = form.blocks // nest.blocks
        place, inner = make_counter("part"), make_counter("pass")
        number = tirx.floordiv(place, make_index(groups)) % parts * each + inner
        self.item = tirx.floordiv(place, make_index(parts * groups))
        self.first_block = place % groups * nest.blocks
        body = make_sequence([self._make_rows(number, inner), self._use_rows(number)])
        if passes % each:
            body = tirx.IfThenElse(number < make_index(passes), body, None)
        count = form.batch * groups * parts
        parallel = nest.parallel and count > 1
        return make_loop(place, count, make_loop(inner, each, body), tirx.ForKind.PARALLEL if parallel else None)

    def _end(self, number: Expr) -> Expr:
        """The row of the map after the last one that a pass reads."""
        from tvm import tirx

        window = self.form.depthwise.rows
        last = tirx.min((number + 1) * self.nest.rows, make_index(window.outputs)) - 1
        end = last * window.stride + ((window.taps - 1) * window.dilation + 1 - window.before)
        return tirx.max(make_index(0), tirx.min(end, make_index(window.size)))

    def _make_rows(self, number: Expr, inner: Expr) -> Stmt:
        """The rows of the map that a pass reads and an earlier pass of the part has not made."""
        from tvm import tirx

        window = self.form.depthwise.rows
        top = number * (self.nest.rows * window.stride) - window.before
        top = tirx.max(make_index(0), tirx.min(top, make_index(window.size)))
        # With a stride beyond the kernel, rows between two passes are not read.
        first = tirx.if_then_else(inner > make_index(0), tirx.max(top, self._end(number - 1)), top)
        counter = make_counter("line")
        extent = tirx.max(make_index(0), self._end(number) - first)
        return tirx.For(counter, make_index(0), extent, tirx.ForKind.SERIAL, self._map_row(first + counter))

    def _map_row(self, row: Expr) -> Stmt:
        """A row of the map, for all blocks of the group."""
        _, columns = self.form.pixels
        whole, rest = divmod(columns, self.nest.tile)
        statements = []
        if whole:
            number = make_counter("tile")
            statements.append(make_loop(number, whole, self._map_tile(row, number * self.nest.tile, self.nest.tile)))
        if rest:
            statements.append(self._map_tile(row, make_index(whole * self.nest.tile), rest))
        return make_sequence(statements)

    def _map_tile(self, row: Expr, column: Expr, columns: int) -> Stmt:
        """The sums of a tile of the map, and what follows."""
        form, nest = self.form, self.nest
        sums = declare(f"sums{len(self.buffers)}", (nest.blocks, columns, form.depthwise.lanes), scope="local")
        self.buffers.append(sums)
        # A pixel is multiplied by the weights of all blocks before the next one, so that one register holds it.
        places = [(make_index(b), c) for c in range(columns) for b in range(nest.blocks)]
        lines = [self._clear(sums, b, c) for b, c in places]
        block, step = make_counter("inputs"), make_counter("step")
        products = []
        for u in range(nest.unroll):
            channel = step * nest.unroll + u
            for b, c in places:

                def product(lane: Expr, channel: Expr = channel, b: Expr = b, c: int = c) -> Stmt:
                    pixel = load(form.data, [self.item, block, row, column + c, channel])
                    zero = make_index(0)
                    weight = load(form.weight, [self.first_block + b, block, zero, zero, channel, lane])
                    place = [b, make_index(c), lane]
                    return store(sums, load(sums, place) + pixel * weight, place)

                products.append(self._vector(product))
        body = make_loop(step, form.depth // nest.unroll, make_sequence(products))
        lines.append(make_loop(block, form.inputs, body))
        lines += [self._keep(sums, row, column, b, c) for b, c in places]
        return make_sequence(lines)

    def _clear(self, sums: Var, b: Expr, c: int) -> Stmt:
        """Begin the sums of a column."""
        from tvm import tirx

        zero = tirx.const(0.0, "float32")
        return self._vector(lambda lane: store(sums, zero, [b, make_index(c), lane]))

    def _keep(self, sums: Var, row: Expr, column: Expr, b: Expr, c: int) -> Stmt:
        """Write what follows the sums of a column into the ring."""

        def vector(lane: Expr) -> Stmt:
            at = (self.item, self.first_block + b, row, column + c, lane)
            variables, written = self.form.writes
            moved = write_after(written, variables, at, self.form.result, load(sums, [b, make_index(c), lane]))
            return store(self.ring, moved.value, [b, row % self.depth, column + c, lane])

        return self._vector(vector)

    def _use_rows(self, number: Expr) -> Stmt:
        """The rows of results of a pass, for all blocks of the group."""
        from tvm import tirx

        form, nest = self.form.depthwise, self.nest
        block, inner = make_counter("block"), make_counter("row")
        row = number * nest.rows + inner if nest.rows > 1 else number

        def pixel(line: Expr, at: Expr, lane: Expr) -> Expr:
            return load(self.ring, [block, line % self.depth, at, lane])

        rows = RowWriter(form, nest.columns, whole=False, pixel=pixel)
        body = rows.write(self.item, self.first_block + block, row)
        self.buffers += rows.buffers
        if form.rows.outputs % nest.rows:
            body = tirx.IfThenElse(row < make_index(form.rows.outputs), body, None)
        return make_loop(block, nest.blocks, make_loop(inner, nest.rows, body))

    def _vector(self, write: Callable[[Expr], Stmt]) -> Stmt:
        """A statement for all lanes."""
        from tvm import tirx

        lane = make_counter("lane")
        return make_loop(lane, self.form.depthwise.lanes, write(lane), tirx.ForKind.VECTORIZED)
