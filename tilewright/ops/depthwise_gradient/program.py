"""Writes the program of the gradient of a depthwise convolution's data: rows by tiles of columns, in registers.

With a stride of s, the pixels a, a + s, a + 2 s, ... of the result are its phase a. All pixels of a phase were
multiplied by the same *taps* of the kernel, its places. So rows are written in groups of s, one of each phase, and the
phase of each column of a tile is known:

parallel for n, block, part of the rows: for group of s rows: for each row of the group:
    for tile of columns:
        S[column, lanes] = 0
        for taps of the row's phase, for taps of each column's phase:
            S[column, lanes] += dY[row, column, lanes] * W[tap, tap, lanes]
        X[column, lanes] = after(S[column, lanes])        what is fused into the gradient

No zeros are multiplied, and each number of the result is stored once. Rows and tiles at the edges have code of their
own, without what lies outside of the convolution's result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tilewright.ops.depthwise.form import Depthwise, Window
from tilewright.ops.depthwise.row_writer import RowWriter, Tile
from tilewright.ops.statements import load, make_counter, make_index, make_loop, make_sequence, store
from tilewright.ops.written import declare

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["Nest", "find_reads", "find_tiles", "write_gradient"]

#: Gives rows of the convolution's result that are read, each with its tap; and the loop around their products, by its
#: variable and its extent, if there is one. Each tile has a variable of its own.
_Lines: TypeAlias = "Callable[[], tuple[Sequence[tuple[Expr, Expr]], tuple[Var, Expr] | None]]"


@dataclass(frozen=True)
class Nest:
    """How the loops are arranged.

    Attributes:
        columns: of a tile. The stride divides them.
        parts: into which the groups of rows of a block are cut.
        parallel: whether parts run in parallel.
    """

    columns: int
    parts: int
    parallel: bool


def find_reads(window: Window, place: int) -> list[tuple[int, int]]:
    """The taps that a pixel was multiplied by, each with the pixel of the convolution's result that it was added to.

    Some of these may be outside of the result.

    Args:
        window: of the convolution.
        place: of the pixel along the window's axis.
    """
    first = (place + window.before) % window.stride
    return [(tap, (place + window.before - tap) // window.stride) for tap in range(first, window.taps, window.stride)]


def find_tiles(window: Window, columns: int) -> list[Tile]:
    """The tiles of a row. Tiles whose reads are all in the convolution's result share their code.

    Args:
        window: of the convolution, along its columns.
        columns: of a tile. The stride divides them.
    """
    found: list[Tile] = []
    inside = False
    for first in range(0, window.size, columns):
        size = min(columns, window.size - first)
        now = all(0 <= at < window.outputs for c in range(size) for _, at in find_reads(window, first + c))
        last = found[-1] if found else None
        if last is not None and inside and now and last.columns == size:
            found[-1] = Tile(last.first, size, last.count + 1)
        else:
            found.append(Tile(first, size, 1))
        inside = now
    return found


def write_gradient(form: Depthwise, nest: Nest) -> tuple[Stmt, list[Var]]:
    """The statements of a gradient, and the buffers that they need.

    Args:
        form: the gradient, by its convolution.
        nest: how its loops are arranged.
    """
    from tvm import tirx

    writer = _Writer(form, nest.columns)
    groups = -(-form.rows.size // form.rows.stride)
    each = -(-groups // nest.parts)
    parts = -(-groups // each)
    place, inner = make_counter("part"), make_counter("group")
    block = tirx.floordiv(place, make_index(parts))
    group = place % parts * each + inner
    body = writer.write_group(block // form.blocks, block % form.blocks, group)
    if groups % each:
        body = tirx.IfThenElse(group < make_index(groups), body, None)
    count = form.batch * form.blocks * parts
    parallel = nest.parallel and count > 1
    rows = make_loop(inner, each, body)
    return make_loop(place, count, rows, tirx.ForKind.PARALLEL if parallel else None), writer.buffers


class _Writer(RowWriter):
    """Writes groups of rows."""

    def __init__(self, form: Depthwise, columns: int) -> None:
        super().__init__(form, columns, whole=True)
        self._grid = find_tiles(form.columns, columns)

    def write_group(self, item: Expr, block: Expr, group: Expr) -> Stmt:
        """All rows of a group.

        Args:
            item: the image.
            block: of channels.
            group: the number of the group.
        """
        from tvm import tirx

        self.item, self.block = item, block
        window = self.form.rows
        statements = []
        for phase in range(min(window.stride, window.size)):
            row = group * window.stride + phase
            body = self._row(row, group, phase)
            if window.size % window.stride and phase >= window.size % window.stride:
                body = tirx.IfThenElse(row < make_index(window.size), body, None)
            statements.append(body)
        return make_sequence(statements)

    def _row(self, row: Expr, group: Expr, phase: int) -> Stmt:
        """A row of the result. Where all of its reads are in the convolution's result, they are written out."""
        from tvm import tirx

        window, reads = self.form.rows, find_reads(self.form.rows, phase)
        lines = [(group + shift, make_index(tap)) for tap, shift in reads]
        whole = self._tiles_of_row(row, lambda: (lines, None))
        if not reads:
            return whole
        # The reads of later taps lie before those of earlier ones, one row for each tap.
        low, high = -reads[-1][1], window.outputs - 1 - reads[0][1]
        last = -(-(window.size - phase) // window.stride) - 1
        if low <= 0 and high >= last:
            return whole
        first_tap, most = reads[0]
        start = tirx.max(make_index(0), group + (most - window.outputs + 1))
        end = tirx.min(make_index(len(reads)), group + (most + 1))

        def inside() -> tuple[list[tuple[Expr, Expr]], tuple[Var, Expr]]:
            number = make_counter("tap")
            line = group + most - (start + number), make_index(first_tap) + (start + number) * window.stride
            return [line], (number, tirx.max(end - start, make_index(0)))

        some = self._tiles_of_row(row, inside)
        if low > high:
            return some
        return tirx.IfThenElse(tirx.all(group >= make_index(low), group <= make_index(high)), whole, some)

    def _tiles_of_row(self, row: Expr, make_lines: _Lines) -> Stmt:
        """All tiles of a row of the result."""
        statements = []
        for tile in self._grid:
            counter = make_counter("tile")
            first = make_index(tile.first) + counter * tile.columns if tile.count > 1 else make_index(tile.first)
            body = self._tile_of_lines(row, first, tile, make_lines)
            statements.append(make_loop(counter, tile.count, body) if tile.count > 1 else body)
        return make_sequence(statements)

    def _tile_of_lines(self, row: Expr, first: Expr, tile: Tile, make_lines: _Lines) -> Stmt:
        """The sums of a tile, and what follows."""
        from tvm import tirx

        lines, loop = make_lines()
        sums = declare(f"sums{len(self.buffers)}", (tile.columns, self.form.lanes), self._dtype, "local")
        self.buffers.append(sums)
        statements = [self._clear(sums, c) for c in range(tile.columns)]
        products = [p for line, tap in lines for p in self._multiply(sums, line, tap, first, tile)]
        if products and loop is not None:
            products = [tirx.For(loop[0], make_index(0), loop[1], tirx.ForKind.SERIAL, make_sequence(products))]
        finish = [self._finish(sums, row, first, c) for c in range(tile.columns)]
        return make_sequence([*statements, *products, *finish])

    def _multiply(self, sums: Var, line: Expr, tap: Expr, first: Expr, tile: Tile) -> list[Stmt]:
        """The products of one row of the kernel. Columns that are read come one after the other."""
        from tvm import tirx

        window = self.form.columns
        # Tiles that are alike differ by whole strides, and so do their reads.
        start = make_index(tile.first // window.stride)
        moved = tirx.floordiv(first, make_index(window.stride)) - start if tile.count > 1 else make_index(0)
        reads = [
            (at, c, k)
            for c in range(tile.columns)
            for k, at in find_reads(window, tile.first + c)
            if 0 <= at < window.outputs
        ]
        statements = []
        for at, c, k in sorted(reads):

            def product(lane: Expr, at: int = at, c: int = c, k: int = k) -> Stmt:
                pixel = load(self.form.data, [self.item, self.block, line, moved + at, lane])
                weight = load(self.form.weight, [self.block, tap, make_index(k), lane])
                place = [make_index(c), lane]
                return store(sums, load(sums, place) + pixel * weight, place)

            statements.append(self._vector(product))
        return statements
