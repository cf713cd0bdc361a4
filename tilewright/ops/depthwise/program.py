"""Writes the program of a depthwise convolution: each row of sums by tiles of columns, which stay in registers.

parallel for n, block, part of the rows: for row:
    for tile of columns:
        S[column, lanes] = 0
        for row of the kernel that is in the image:
            weights of the kernel's row in registers
            for column of the image under the tile: a vector is loaded once, and multiplied by all its weights
        Y[column, lanes] = what follows of S[column, lanes]

With ``down`` the loop over tiles is around that over rows. Tiles at the edges have code of their own, in which the
columns outside of the image are left out. So the padded image is never made, and no load is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        down: whether all rows of a tile come one after the other, instead of all tiles of a row. Then the innermost
            cache holds what the next row reads again, also where channels lie last: a block of these has its pixels so
            far apart that a whole row of them falls into few sets of the cache.
    """

    columns: int
    parts: int
    whole: bool
    parallel: bool
    down: bool = False


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
        self._writer = RowWriter(form, nest.columns, nest.whole)
        self.buffers = self._writer.buffers

    def write(self) -> Stmt:
        """All statements."""
        from tvm import tirx

        form, nest = self.form, self.nest
        each = -(-form.rows.outputs // nest.parts)
        parts = -(-form.rows.outputs // each)
        place = make_counter("part")
        if form.last:  # a core reads neighbouring rows of all channels, as it wrote them before
            self.block, rest = place % form.blocks, tirx.floordiv(place, make_index(form.blocks))
            part, self.item = rest % parts, tirx.floordiv(rest, make_index(parts))
        else:
            part, block = place % parts, tirx.floordiv(place, make_index(parts))
            self.item, self.block = block // form.blocks, block % form.blocks
        tiles = tiles_of(form, nest.columns)
        bodies = [self._rows(part, each, [tile]) for tile in tiles] if nest.down else []
        body = make_sequence(bodies) if nest.down else self._rows(part, each, tiles)
        count = form.batch * form.blocks * parts
        parallel = nest.parallel and count > 1
        return make_loop(place, count, body, tirx.ForKind.PARALLEL if parallel else None)

    def _rows(self, part: Expr, each: int, tiles: Sequence[Tile]) -> Stmt:
        """Some tiles of all rows of a part. The loop over tiles is inside of that over rows, unless these go down."""
        from tvm import tirx

        inner, number = make_counter("row"), make_counter("tile")
        row = part * each + inner
        down = self.nest.down and tiles[0].count > 1
        body = self._writer.write(self.item, self.block, row, tiles, number if down else None)
        if self.form.rows.outputs % each:
            body = tirx.IfThenElse(row < make_index(self.form.rows.outputs), body, None)
        rows = make_loop(inner, each, body)
        return make_loop(number, tiles[0].count, rows) if down else rows


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

    def write(
        self,
        item: Expr,
        block: Expr,
        row: Expr,
        tiles: Sequence[Tile] | None = None,
        number: Expr | None = None,
    ) -> Stmt:
        """Tiles of a row of results.

        Args:
            item: the image.
            block: of channels.
            row: of results.
            tiles: of the row; None: all.
            number: only that one of the first of ``tiles``, which are alike; None: all of them.
        """
        from tvm import tirx

        self.item, self.block = item, block
        tiles = tiles_of(self.form, self.columns) if tiles is None else tiles
        window = self.form.rows
        if not window.padded:
            return self._tiles(row, tiles, number, make_index(0), window.taps)
        top = make_index(window.before) - row * window.stride
        step = window.dilation
        low = tirx.max(make_index(0), tirx.floordiv(top + (step - 1), make_index(step)))
        high = tirx.min(make_index(window.taps), tirx.floordiv(top + (window.size + step - 1), make_index(step)))
        some = self._tiles(row, tiles, number, low, tirx.max(high - low, make_index(0)))
        if not self.whole:
            return some
        whole = tirx.all(row >= make_index(window.whole[0]), row <= make_index(window.whole[-1]))
        return tirx.IfThenElse(whole, self._tiles(row, tiles, number, make_index(0), window.taps), some)

    def _tiles(self, row: Expr, tiles: Sequence[Tile], number: Expr | None, low: Expr, taps: Expr | int) -> Stmt:
        """Tiles of a row, by the rows of the kernel from ``low`` on."""
        statements = []
        for tile in tiles:
            counter = make_counter("tile") if number is None else number
            first = make_index(tile.first) + counter * tile.columns if tile.count > 1 else make_index(tile.first)
            body = self._tile(row, first, tile, low, taps)
            statements.append(make_loop(counter, tile.count, body) if tile.count > 1 and number is None else body)
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
