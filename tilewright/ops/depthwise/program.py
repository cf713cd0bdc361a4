"""Writes the program of a depthwise convolution: each row of sums by tiles of columns, which stay in registers.

parallel for n, part of the rows, block: for row:
    for tile of columns:
        S[column, lanes] = 0
        for row of the kernel that is in the image:
            weights of the kernel's row in registers
            for column of the image under the tile: a vector is loaded once, and multiplied by all its weights
        Y[column, lanes] = what follows of S[column, lanes]

With ``down`` the loop over tiles is around that over rows. Tiles at the edges have code of their own, in which the
columns outside of the image are left out. So the padded image is never made, and no load is tested. Convolutions of
bytes are alike (:mod:`tilewright.ops.depthwise.byte_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.ops.contraction.dot_products import DotProduct
from tilewright.ops.depthwise.byte_rows import ByteRowWriter
from tilewright.ops.depthwise.form import Depthwise
from tilewright.ops.depthwise.row_writer import RowWriter, Tile, tiles_of
from tilewright.ops.statements import make_counter, make_index, make_loop, make_sequence

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["Nest", "write_depthwise"]


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


def write_depthwise(
    form: Depthwise, nest: Nest, dot: DotProduct | None = None, interleaved: bool = False
) -> tuple[Stmt, list[Var]]:
    """The statements of a depthwise convolution, and the buffers that they need.

    Args:
        form: the convolution.
        nest: how its loops are arranged.
        dot: the instruction that multiplies quads or pairs of bytes; None: there are none of either, or no instruction.
        interleaved: whether bytes are permuted to make quads or pairs.
    """
    writer = _Writer(form, nest, dot, interleaved)
    return writer.write(), writer.buffers


class _Writer:
    def __init__(self, form: Depthwise, nest: Nest, dot: DotProduct | None, interleaved: bool) -> None:
        self.form, self.nest = form, nest
        if form.together > 1:
            self._writer: RowWriter = ByteRowWriter(form, nest.columns, nest.whole, dot, interleaved)
        else:
            self._writer = RowWriter(form, nest.columns, nest.whole)
        self.buffers = self._writer.buffers

    def write(self) -> Stmt:
        """All statements."""
        from tvm import tirx

        form, nest = self.form, self.nest
        each = -(-form.rows.outputs // nest.parts)
        parts = -(-form.rows.outputs // each)
        place = make_counter("part")
        # A core reads neighbouring rows of all channels, as it wrote them before.
        self.block, rest = place % form.blocks, tirx.floordiv(place, make_index(form.blocks))
        part, self.item = rest % parts, tirx.floordiv(rest, make_index(parts))
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
