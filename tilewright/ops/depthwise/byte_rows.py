"""Writes rows of a depthwise convolution of bytes: an instruction multiplies some rows of the kernel at once.

    N[lanes, 0:4] = X[row, lanes], X[row + 1, lanes], X[row + 2, lanes], X[row + 3, lanes]   a quad of rows of an image
    S[column, lanes] = vpdpbusd(S[column, lanes], N[lanes, 0:4], W[lanes, 0:4])           for each sum with that column

Pairs of rows have 16 bits for each byte, and ``vpmaddwd``. Rows are interleaved by a permutation of bytes; where that
takes too many instructions, they are shifted and added. Outside of the image all pixels are the number around it.

Targets with pairs have 16 registers. So a pair is used for all sums that it is part of, right after it was made, and
only so many columns are summed at once that their sums and a row of weights stay in registers.
Where a window leaves the image above or below, another row is read in its place, and a mask removes what was read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.ops.contraction.dot_products import PAIR, DotProduct, add_quads
from tilewright.ops.depthwise.form import Depthwise
from tilewright.ops.depthwise.row_writer import RowWriter, Tile
from tilewright.ops.statements import load, make_index, store

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["ByteRowWriter", "chunks_of"]

#: Vector registers by the lanes of a vector: AVX-512 has 32. Three of them hold a pair, a product, and a constant.
_REGISTERS, _MORE_REGISTERS, _OTHERS = 16, 32, 3
#: Columns whose bytes one store writes.
_STORED = 4


def chunks_of(columns: int, taps: int, lanes: int) -> list[range]:
    """The columns of a tile that are summed at once, if rows are multiplied in pairs.

    Args:
        columns: of the tile.
        taps: columns of the kernel.
        lanes: of a vector.
    """
    registers = _REGISTERS if lanes <= _STORED * PAIR else _MORE_REGISTERS
    most = max(_STORED, registers - taps - _OTHERS)
    each = -(-columns // -(-columns // most))
    return [range(begin, min(begin + each, columns)) for begin in range(0, columns, each)]


class ByteRowWriter(RowWriter):
    """Writes a row of results.

    Attributes:
        buffers: what the statements need.

    Args:
        form: the convolution.
        columns: of a tile.
        whole: whether rows whose whole window is in the image have code of their own, without masks.
        dot: the instruction that multiplies quads or pairs; None: plain code does.
        interleaved: whether bytes are permuted to make quads or pairs.
    """

    _dtype = "int32"

    def __init__(
        self, form: Depthwise, columns: int, whole: bool, dot: DotProduct | None, interleaved: bool = False
    ) -> None:
        super().__init__(form, columns, whole)
        self._dot, self._bits, self._interleaved = dot, 32 // form.together, interleaved

    def _compute(self, sums: Var, row: Expr, first: Expr, tile: Tile, low: Expr, taps: Expr | int) -> list[Stmt]:
        """The sums of all columns, and what follows them; of pairs, chunk by chunk.

        If ``taps`` is an ``int``, the image has all rows of the window.
        """
        if self.form.together != PAIR:
            return super()._compute(sums, row, first, tile, low, taps)
        lines: list[Stmt] = []
        for columns in chunks_of(tile.columns, self.form.columns.taps, self.form.lanes):
            lines += self._add_pairs(sums, row, first, tile, columns, isinstance(taps, int))
            lines += [self._finish(sums, row, first, c) for c in columns]
        return lines

    def _add_pairs(self, sums: Var, row: Expr, first: Expr, tile: Tile, columns: range, inner: bool) -> list[Stmt]:
        """The sums of some columns of a tile. ``inner``: whether the image has all rows of the window."""
        from tvm import tirx

        window, rows, kind = self.form.columns, self.form.rows.taps, f"int32x{self.form.lanes}"
        totals: dict[int, Expr] = {c: self._constant(0) for c in columns}
        lines: list[Stmt] = []
        for number, begin in enumerate(range(0, rows, PAIR)):
            group = range(begin, min(begin + PAIR, rows))
            for at, places in _uses_of(self.form, tile, columns):
                pair = tirx.Var("numbers", kind)
                column = None if at is None else first * window.stride + at
                lines.append(tirx.Bind(pair, self._numbers(row, column, group, inner)))
                for c, k in places:
                    total = tirx.Var("total", kind)
                    lines.append(tirx.Bind(total, self._add(totals[c], pair, number, k)))
                    totals[c] = total
        return lines + [self._store(sums, [make_index(c)], total) for c, total in totals.items()]

    def _products(self, sums: Var, row: Expr, first: Expr, tile: Tile, low: Expr, taps: Expr | int) -> list[Stmt]:
        """The sums of the products of all rows of the kernel.

        If ``taps`` is an ``int``, the image has all rows of the window.

        Nothing is stored between a column's first product and its last: LLVM would keep such stores.
        """
        from tvm import tirx

        window, together, rows = self.form.columns, self.form.together, self.form.rows.taps
        groups = [range(begin, min(begin + together, rows)) for begin in range(0, rows, together)]
        inner = isinstance(taps, int)
        lines: list[Stmt] = []
        known: dict[tuple[int, int | None], Var] = {}
        for c in range(tile.columns):
            total: Expr = self._constant(0)
            for number, group in enumerate(groups):
                for k in range(window.taps):
                    inside = window.inside(tile.first + c, k)
                    if not inside and not self.form.around:
                        continue
                    key = number, window.at(c, k) if inside else None
                    if key not in known:
                        at = first * window.stride + window.at(c, k) if inside else None
                        known[key] = tirx.Var("numbers", f"int32x{self.form.lanes}")
                        lines.append(tirx.Bind(known[key], self._numbers(row, at, group, inner)))
                    total = self._add(total, known[key], number, k)
            lines.append(self._store(sums, [make_index(c)], total))
        return lines

    def _numbers(self, row: Expr, at: Expr | None, taps: range, inner: bool) -> Expr:
        """The quads or pairs of a column of the image; None: of one beside it.

        Args:
            row: of results.
            at: the column.
            taps: rows of the kernel.
            inner: whether the image has their rows.
        """
        from tvm import tirx

        if self._interleaved and at is not None and len(taps) > 1:
            return self._interleave([self._bytes(row, at, tap, inner) for tap in taps])
        total: Expr | None = None
        for place, tap in enumerate(taps):
            pixel = self._constant(self.form.around) if at is None else self._pixels(row, at, tap, inner)
            if place:
                pixel = tirx.shift_left(pixel, self._constant(place * self._bits))
            total = pixel if total is None else tirx.bitwise_or(total, pixel)
        assert total is not None
        return total

    def _interleave(self, rows: list[Expr]) -> Expr:
        """Quads or pairs of the bytes of rows. Weights of rows that are missing are 0, so that any row may be there."""
        from tvm import tirx

        lanes, together = self.form.lanes, self.form.together
        rows = [*rows, *rows[:1] * (together - len(rows))]
        places = [tirx.const(lane + lanes * place, "int32") for lane in range(lanes) for place in range(together)]
        mixed = tirx.Shuffle(rows, places)
        if together == PAIR:
            mixed = tirx.Cast(f"int16x{lanes * together}", mixed)
        return tirx.reinterpret(f"int32x{lanes}", mixed)

    def _pixels(self, row: Expr, at: Expr, tap: int, inner: bool) -> Expr:
        """The bytes of a pixel as int32."""
        from tvm import tirx

        return tirx.Cast(f"int32x{self.form.lanes}", self._bytes(row, at, tap, inner))

    def _bytes(self, row: Expr, at: Expr, tap: int, inner: bool) -> Expr:
        """The bytes of a pixel; those around the image above or below it."""
        from tvm import tirx

        form, rows = self.form, self.form.rows
        line = row * rows.stride + (tap * rows.dilation - rows.before)
        inside = tirx.all(line >= 0, line < rows.size)
        near = line if inner else tirx.max(make_index(0), tirx.min(line, make_index(rows.size - 1)))
        *place, lane = form.place(self.item, self.block, near, at, make_index(0))
        pixel = self._load(form.data, place, lane, form.lanes)
        if inner:
            return pixel
        mask = tirx.Cast("uint8", inside) * tirx.const(255, "uint8")  # a select by one condition would be a branch
        pixel = tirx.bitwise_and(pixel, tirx.Broadcast(mask, form.lanes))
        if not form.around:
            return pixel
        around = tirx.bitwise_and(tirx.bitwise_not(mask), tirx.const(form.around, "uint8"))
        return tirx.bitwise_or(pixel, tirx.Broadcast(around, form.lanes))

    def _add(self, total: Expr, numbers: Expr, group: int, k: int) -> Expr:
        """A vector of sums plus the products of quads or pairs."""
        from tvm import tirx

        form = self.form
        place = [self.block, make_index(group), make_index(k), make_index(0)]
        weights = self._load(form.weight, place, make_index(0), form.lanes * form.together)
        return add_quads(self._dot, form.lanes, total, numbers, tirx.reinterpret(f"int32x{form.lanes}", weights))

    def _constant(self, value: int) -> Expr:
        from tvm import tirx

        return tirx.Broadcast(tirx.const(value, "int32"), self.form.lanes)

    def _load(self, buffer: Var, place: list[Expr], last: Expr | None = None, lanes: int = 0) -> Expr:
        """A vector of a buffer; by default, of all lanes."""
        from tvm import tirx

        begin = make_index(0) if last is None else last
        return load(buffer, [*place, tirx.Ramp(begin, make_index(1), lanes or self.form.lanes)])

    def _store(self, buffer: Var, place: list[Expr], value: Expr) -> Stmt:
        from tvm import tirx

        return store(buffer, value, [*place, tirx.Ramp(make_index(0), make_index(1), self.form.lanes)])


def _uses_of(form: Depthwise, tile: Tile, columns: range) -> list[tuple[int | None, list[tuple[int, int]]]]:
    """Columns of the image in order, relative to a tile's first window, then None for those beside it.

    Each with the columns of the tile and of the kernel that meet there. Zeros around the image are left out.
    """
    window = form.columns
    found: dict[int | None, list[tuple[int, int]]] = {}
    for c in columns:
        for k in range(window.taps):
            inside = window.inside(tile.first + c, k)
            if inside or form.around:
                found.setdefault(window.at(c, k) if inside else None, []).append((c, k))
    return sorted(found.items(), key=lambda item: (item[0] is None, item[0] or 0))
