"""Writes rows of a depthwise convolution's results by tiles of columns, whose sums stay in registers."""

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

__all__ = ["RowWriter", "Tile", "tiles_of"]


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

    _dtype = "float32"

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
        sums = declare(f"sums{len(self.buffers)}", (tile.columns, self.form.lanes), self._dtype, "local")
        self.buffers.append(sums)
        return make_sequence(self._compute(sums, row, first, tile, low, taps))

    def _compute(self, sums: Var, row: Expr, first: Expr, tile: Tile, low: Expr, taps: Expr | int) -> list[Stmt]:
        """The sums of all columns, then what follows them."""
        lines = self._products(sums, row, first, tile, low, taps)
        return lines + [self._finish(sums, row, first, c) for c in range(tile.columns)]

    def _products(self, sums: Var, row: Expr, first: Expr, tile: Tile, low: Expr, taps: Expr | int) -> list[Stmt]:
        """The sums of the products of the kernel's rows from ``low`` on."""
        from tvm import tirx

        begin = [self._clear(sums, c) for c in range(tile.columns)]
        if isinstance(taps, int) and self.whole:
            return begin + [line for tap in range(taps) for line in self._taps(sums, row, first, tile, make_index(tap))]
        counter = make_counter("tap")
        products = self._taps(sums, row, first, tile, low + counter)
        extent = make_index(taps) if isinstance(taps, int) else taps
        if not products:  # the windows are all beside the image
            return begin
        return [*begin, tirx.For(counter, make_index(0), extent, tirx.ForKind.SERIAL, make_sequence(products))]

    def _clear(self, sums: Var, c: int) -> Stmt:
        """Begin the sums of a column."""
        from tvm import tirx

        return self._vector(lambda lane: store(sums, tirx.const(0, self._dtype), [make_index(c), lane]))

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
