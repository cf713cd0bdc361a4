"""Writes the program of an MLP: a core takes a chunk of rows from the data to the result, and keeps the hidden rows.

parallel for chunk of rows:
    for panel of hidden columns, for tile of rows:    registers: S[row, column] += X[row, k] * W[k, column]
        hidden[row, column] = after(S)                stays in the core's second cache
    for panel of columns, for tile of rows:           registers: S[row, column] += hidden[row, k] * V[k, column]
        Y[row, column] = after(S)

``after`` is what is fused into a layer, such as bias, activation or residual. A panel is as many blocks of columns as a
register tile has. Its weights stay in the first or the second cache for all tiles of a chunk. Meanwhile the weights of
the next panel are fetched, since the caches of a core cannot hold the weights of a network.

If chunks or tiles do not divide the rows, the last one begins earlier, and computes some rows twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.ops.mlp.form import Dense, Mlp
from tilewright.ops.statements import bound_index, load, make_counter, make_index, make_loop, make_sequence, store
from tilewright.ops.written import declare, write_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["Nest", "write_mlp"]

#: Arguments of LLVM's prefetch: for reading, the locality (into the second cache), and the kind of cache (for data).
_READ, _SECOND_CACHE, _DATA = 0, 2, 1


@dataclass(frozen=True)
class Nest:
    """How the loops are arranged.

    Attributes:
        chunks: of rows.
        rows: of a register tile; at most those of a chunk.
        blocks: of columns of a register tile of each layer.
        unroll: steps of a sum that are written out; they divide the depths of both layers.
        parallel: whether chunks run in parallel.
    """

    chunks: int
    rows: int
    blocks: tuple[int, int]
    unroll: int
    parallel: bool


def write_mlp(form: Mlp, nest: Nest) -> tuple[Stmt, list[Var]]:
    """The statements of an MLP, and the buffers that they need."""
    writer = _Writer(form, nest)
    return writer.write(), writer.buffers


class _Writer:
    def __init__(self, form: Mlp, nest: Nest) -> None:
        self.form, self.nest = form, nest
        self.rows = -(-form.rows // nest.chunks)
        self.tiles = -(-self.rows // nest.rows)
        self.hidden = declare("hidden", (self.rows, form.layers[0].columns))
        self.buffers: list[Var] = [self.hidden]

    def write(self) -> Stmt:
        """All statements."""
        from tvm import tirx

        form, nest = self.form, self.nest
        chunk = make_counter("chunk")
        self.begin = bound_index(chunk * self.rows, form.rows - self.rows)
        first = form.layers[0]

        def given(row: Expr, k: Expr) -> Expr:
            return load(first.data, [self.begin + row, k])

        def kept(row: Expr, k: Expr) -> Expr:
            return load(self.hidden, [row, k])

        body = make_sequence([self._layer(0, given, self._keep), self._layer(1, kept, self._give)])
        parallel = nest.parallel and nest.chunks > 1
        return make_loop(chunk, nest.chunks, body, tirx.ForKind.PARALLEL if parallel else None)

    def _layer(self, which: int, read: Callable[[Expr, Expr], Expr], write: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
        """All tiles of a layer.

        Args:
            which: the layer.
            read: an element of its data, by its row in the chunk and its column.
            write: what follows the sum at a row in the chunk and a column.
        """
        from tvm import tirx

        layer, nest = self.form.layers[which], self.nest
        blocks = nest.blocks[which]
        sums = declare(f"sums{which}", (nest.rows, blocks, layer.lanes), scope="local")
        self.buffers.append(sums)
        panel, tile, step, part = (make_counter(name) for name in ("panel", "tile", "step", "part"))
        top = bound_index(tile * nest.rows, self.rows - nest.rows)
        k = step * nest.unroll + part

        def clear(row: Expr, block: Expr, lane: Expr) -> Stmt:
            return store(sums, tirx.const(0.0, "float32"), [row, block, lane])

        def add(row: Expr, block: Expr, lane: Expr) -> Stmt:
            place = [row, block, lane]
            product = read(top + row, k) * load(layer.weight, [panel * blocks + block, k, lane])
            return store(sums, load(sums, place) + product, place)

        def finish(row: Expr, block: Expr, lane: Expr) -> Stmt:
            column = (panel * blocks + block) * layer.lanes + lane
            return write(top + row, column, load(sums, [row, block, lane]))

        products = make_loop(part, nest.unroll, self._over_tile(which, add), tirx.ForKind.UNROLLED)
        fetches = self._fetches(which, panel, tile, step)
        products = make_loop(step, layer.depth // nest.unroll, make_sequence([*fetches, products]))
        body = make_sequence([self._over_tile(which, clear), products, self._over_tile(which, finish)])
        return make_loop(panel, layer.blocks // blocks, make_loop(tile, self.tiles, body))

    def _over_tile(self, which: int, element: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
        """The statement at each row, block of columns and lane of a tile, written out."""
        from tvm import tirx

        row, block, lane = (make_counter(name) for name in ("row", "block", "lane"))
        layer, nest = self.form.layers[which], self.nest
        body = make_loop(lane, layer.lanes, element(row, block, lane), tirx.ForKind.VECTORIZED)
        body = make_loop(block, nest.blocks[which], body, tirx.ForKind.UNROLLED)
        return make_loop(row, nest.rows, body, tirx.ForKind.UNROLLED)

    # What is fused into a layer

    def _keep(self, row: Expr, column: Expr, value: Expr) -> Stmt:
        """Keep what follows a sum of the first layer."""
        layer = self.form.layers[0]
        variables, block = layer.writes
        written = write_after(block, variables, [self.begin + row, column], layer.result, value)
        return store(self.hidden, written.value, [row, column])

    def _give(self, row: Expr, column: Expr, value: Expr) -> Stmt:
        """Write what follows a sum of the second layer."""
        layer = self.form.layers[1]
        variables, block = layer.writes
        return write_after(block, variables, [self.begin + row, column], layer.result, value)

    # Weights

    def _fetches(self, which: int, panel: Expr, tile: Expr, step: Expr) -> list[Stmt]:
        """The fetches of a step. All steps of all tiles together fetch the next panel's weights.

        All panels of the first layer together also fetch the first panel of the second one.
        """
        layer, second = self.form.layers[which], self.form.layers[1]
        blocks, steps = self.nest.blocks[which], layer.depth // self.nest.unroll
        panels = layer.blocks // blocks
        number = tile * steps + step
        found = []
        if panels > 1:
            following = bound_index((panel + 1) * blocks, layer.blocks - blocks)
            found += self._lines(layer, following, blocks * layer.depth, number, self.tiles * steps)
        if which == 0:
            number, count = panel * (self.tiles * steps) + number, panels * self.tiles * steps
            found += self._lines(second, make_index(0), self.nest.blocks[1] * second.depth, number, count)
        return found

    def _lines(self, layer: Dense, block: Expr, lines: int, number: Expr, count: int) -> list[Stmt]:
        """The share of step ``number`` of ``count`` in fetching so many rows of lanes of the weights from ``block`` on.

        These lie side by side, also those of several blocks.
        """
        from tvm import tirx

        each = -(-lines // count)
        fetches = []
        for part in range(each):
            place = bound_index(number * each + part, lines - 1)
            address = tirx.address_of(load(layer.weight, [block, place, make_index(0)]))
            fetch = tirx.call_intrin("void", "tirx.prefetch", address, _READ, _SECOND_CACHE, _DATA)
            fetches.append(tirx.Evaluate(fetch))
        return fetches
