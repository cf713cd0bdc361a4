"""Writes the program of a depthwise convolution: each row of sums by tiles of columns, which stay in registers.

parallel for n, block, part of the rows: for row:
    for tile of columns:
        S[column, lanes] = 0
        for row of the kernel that is in the image:
            weights of the kernel's row in registers
            for column of the image under the tile: a vector is loaded once, and multiplied by all its weights
        Y[column, lanes] = what follows of S[column, lanes]

Tiles at the edges have code of their own, in which the columns outside of the image are left out. So the padded image
is never made, and no load is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.ops.depthwise.form import Depthwise
from tilewright.ops.statements import load, make_counter, make_index, make_loop, make_sequence, store
from tilewright.ops.written import declare, write_after

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["Nest", "RowWriter", "Tile", "tiles_of", "write_depthwise"]


@dataclass(frozen=True)
class Nest:
    """How the loops are arranged.

    Attributes:
        columns: of a tile.
        parts: into which the rows of a block are cut.
        whole: whether rows whose whole window is in the image have code of their own, with the kernel's rows written
            out.
        parallel: whether parts run in parallel.
    """

    columns: int
    parts: int
    whole: bool
    parallel: bool


@dataclass(frozen=True)
class Tile:
    """Tiles of columns that have the same code.

    Attributes:
        first: the first column of the first tile.
        columns: of each tile.
        count: the tiles.
    """

    first: int
    columns: int
    count: int


def tiles_of(form: Depthwise, columns: int) -> list[Tile]:
    """The tiles of a row. Tiles whose windows are all in the image share their code."""
    window, whole = form.columns, form.columns.whole
    found: list[Tile] = []
    inside = False
    for first in range(0, window.outputs, columns):
        size = min(columns, window.outputs - first)
        now = first in whole and first + size - 1 in whole
        last = found[-1] if found else None
        if last is not None and inside and now and last.columns == size:
            found[-1] = Tile(last.first, size, last.count + 1)
        else:
            found.append(Tile(first, size, 1))
        inside = now
    return found


def write_depthwise(form: Depthwise, nest: Nest) -> tuple[Stmt, list[Var]]:
    """The statements of a depthwise convolution, and the buffers that they need."""
    writer = _Writer(form, nest)
    return writer.write(), writer.buffers


class _Writer:
    def __init__(self, form: Depthwise, nest: Nest) -> None:
        self.form, self.nest = form, nest
        self._rows = RowWriter(form, nest.columns, nest.whole)
        self.buffers = self._rows.buffers

    def write(self) -> Stmt:
        """All statements."""
        from tvm import tirx

        form, nest = self.form, self.nest
        each = -(-form.rows.outputs // nest.parts)
        parts = -(-form.rows.outputs // each)
        place, inner = make_counter("part"), make_counter("row")
        row = place % parts * each + inner
        block = tirx.floordiv(place, make_index(parts))
        body = self._rows.write(block // form.blocks, block % form.blocks, row)
        if form.rows.outputs % each:
            body = tirx.IfThenElse(row < make_index(form.rows.outputs), body, None)
        count = form.batch * form.blocks * parts
        parallel = nest.parallel and count > 1
        return make_loop(place, count, make_loop(inner, each, body), tirx.ForKind.PARALLEL if parallel else None)


class RowWriter:
    """Writes a row of results.

    Attributes:
        buffers: what the statements need.

    Args:
        form: the convolution.
        columns: of a tile.
        whole: whether rows whose whole window is in the image have code of their own.
        pixel: gives an element of the image of an item and a block, at a row, a column and a lane; None: it lies in
            the convolution's operand.
    """

    def __init__(
        self,
        form: Depthwise,
        columns: int,
        whole: bool,
        pixel: Callable[[Expr, Expr, Expr], Expr] | None = None,
    ) -> None:
        self.form, self.columns, self.whole = form, columns, whole
        self.buffers: list[Var] = []
        self._pixel = pixel if pixel is not None else self._operand

    def _operand(self, line: Expr, at: Expr, lane: Expr) -> Expr:
        return load(self.form.data, self.form.place(self.item, self.block, line, at, lane))

    def write(self, item: Expr, block: Expr, row: Expr) -> Stmt:
        """The row ``row`` of results of an item and a block of channels."""
        from tvm import tirx

        self.item, self.block = item, block
        window = self.form.rows
        if not window.padded:
            return self._tiles(row, make_index(0), window.taps)
        top = make_index(window.before) - row * window.stride
        step = window.dilation
        low = tirx.max(make_index(0), tirx.floordiv(top + (step - 1), make_index(step)))
        high = tirx.min(make_index(window.taps), tirx.floordiv(top + (window.size + step - 1), make_index(step)))
        some = self._tiles(row, low, tirx.max(high - low, make_index(0)))
        if not self.whole:
            return some
        whole = tirx.all(row >= make_index(window.whole[0]), row <= make_index(window.whole[-1]))
        return tirx.IfThenElse(whole, self._tiles(row, make_index(0), window.taps), some)

    def _tiles(self, row: Expr, low: Expr, taps: Expr | int) -> Stmt:
        """All tiles of a row, by the rows of the kernel from ``low`` on."""
        statements = []
        for tile in tiles_of(self.form, self.columns):
            number = make_counter("tile")
            first = make_index(tile.first) + number * tile.columns if tile.count > 1 else make_index(tile.first)
            body = self._tile(row, first, tile, low, taps)
            statements.append(make_loop(number, tile.count, body) if tile.count > 1 else body)
        return make_sequence(statements)

    def _tile(self, row: Expr, first: Expr, tile: Tile, low: Expr, taps: Expr | int) -> Stmt:
        """The sums of a tile, and what follows."""
        from tvm import tirx

        sums = declare(f"sums{len(self.buffers)}", (tile.columns, self.form.lanes), scope="local")
        self.buffers.append(sums)
        lines = [self._clear(sums, c) for c in range(tile.columns)]
        if isinstance(taps, int) and self.whole:
            lines += [line for tap in range(taps) for line in self._taps(sums, row, first, tile, make_index(tap))]
        else:
            counter = make_counter("tap")
            products = self._taps(sums, row, first, tile, low + counter)
            extent = make_index(taps) if isinstance(taps, int) else taps
            if products:  # the windows are not all beside the image
                loop = tirx.For(counter, make_index(0), extent, tirx.ForKind.SERIAL, make_sequence(products))
                lines.append(loop)
        lines += [self._finish(sums, row, first, c) for c in range(tile.columns)]
        return make_sequence(lines)

    def _clear(self, sums: Var, c: int) -> Stmt:
        """Begin the sums of a column."""
        from tvm import tirx

        return self._vector(lambda lane: store(sums, tirx.const(0.0, "float32"), [make_index(c), lane]))

    def _taps(self, sums: Var, row: Expr, first: Expr, tile: Tile, tap: Expr) -> list[Stmt]:
        """The products of one row of the kernel. Columns of the image come one after the other."""
        form = self.form
        window = form.columns
        line = row * form.rows.stride + tap * form.rows.dilation - form.rows.before
        pairs = [
            (window.at(c, k), c, k)
            for c in range(tile.columns)
            for k in range(window.taps)
            if window.inside(tile.first + c, k)
        ]
        statements = []
        for offset, c, k in sorted(pairs):

            def product(lane: Expr, offset: int = offset, c: int = c, k: int = k) -> Stmt:
                at = first * window.stride + offset
                pixel = self._pixel(line, at, lane)
                weight = load(form.weight, [self.block, tap, make_index(k), lane])
                place = [make_index(c), lane]
                return store(sums, load(sums, place) + pixel * weight, place)

            statements.append(self._vector(product))
        return statements

    def _finish(self, sums: Var, row: Expr, first: Expr, c: int) -> Stmt:
        """What follows the sums of a column, as the function has it."""
        variables, block = self.form.writes

        def vector(lane: Expr) -> Stmt:
            places = self.form.place(self.item, self.block, row, first + c, lane)
            return write_after(block, variables, places, self.form.result, load(sums, [make_index(c), lane]))

        return self._vector(vector)

    def _vector(self, write: Callable[[Expr], Stmt]) -> Stmt:
        """A statement for all lanes."""
        from tvm import tirx

        lane = make_counter("lane")
        return make_loop(lane, self.form.lanes, write(lane), tirx.ForKind.VECTORIZED)
