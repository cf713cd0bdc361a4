"""Writes the program of a product of tokens: chunks of tokens, whose data stay in the caches for all sums.

for part of the tokens, of the left and of the right panels, in parallel:
    for chunk of the tokens:
        pack the chunk's columns of the left matrix, panel by panel; add them to the sums of columns
        for right panel:                                            vectors of columns
            pack the chunk's columns of it
            for left panel, for register tile of it:
                for token of the chunk:                             registers: tile += left[token, i] * right[token, j]
                    fetch a line of the next chunk, and one of the product
                product[i, j] += tile
add the products of all parts of the tokens

Packed columns lie together, so a tile reads each line of a cache once. While a chunk is summed, the next one is fetched
into the second cache: a processor does not fetch it by itself, since its rows lie far apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from tilewright.fetching import LOCAL_SUMS
from tilewright.ops.elementwise.float32 import number
from tilewright.ops.statements import bound_index, load, make_counter, make_index, make_loop, make_sequence, store
from tilewright.ops.token_product.nest import Nest
from tilewright.ops.written import declare, schedule_statements

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.s_tir import Schedule
    from tvm.tirx import ForKind, PrimFunc, Stmt

__all__ = ["schedule_product"]

#: Numbers in a line of a cache.
_LINE = 16
#: Most lines of a product that are fetched right after each other. (A choice: a processor waits for 10 to 16 lines at
#: a time.)
_AT_ONCE = 12
#: Arguments of LLVM's prefetch: into all caches, into all but the first, and the kind of cache (for data).
_ALL_CACHES, _SECOND_CACHE, _DATA = 3, 2, 1

#: The statement at a row and a vector of a register tile.
_Element: TypeAlias = "Callable[[Expr, Expr], Stmt]"


def schedule_product(function: PrimFunc, nest: Nest) -> Schedule:
    """The schedule of a product's function with the loops of a nest."""
    writer = _Writer(dict(zip(nest.form.shapes, function.params, strict=True)), nest)
    body = writer.write()
    return schedule_statements(function.with_attr(LOCAL_SUMS, 1) if nest.ahead else function, body, writer.buffers)


class _Writer:
    """Writes the statements.

    Attributes:
        buffers: what they need besides the parameters.

    Args:
        params: the parameters by name.
        nest: how the loops are arranged.
    """

    def __init__(self, params: Mapping[str, Var], nest: Nest) -> None:
        self.params, self.nest, self.form = dict(params), nest, nest.form
        self.buffers: list[Var] = []
        parts, left, right = nest.parts
        self.part = make_counter("part")
        self.token_part = self.part // (left * right)
        self.right_part = self.part % right
        self.left_begin, self.left_end = _cut(self.part // right % left, nest.panels[0], left)
        self.right_begin, self.right_end = _cut(self.right_part, nest.panels[1], right)
        self.own_left = -(-nest.panels[0] // left)
        self.chunk = make_counter("chunk")
        self.first_chunk, self.last_chunk = _cut(self.token_part, nest.chunks, parts)
        unit, end = _cut(self.first_chunk + self.chunk, nest.units, nest.chunks)
        self.begin, self.end, self.count = unit * nest.step, end * nest.step, end - unit
        self.packed_left = self._allocate("packed_left", (self.own_left, nest.most, nest.side))
        self.packed_right = self._allocate("packed_right", (nest.most, nest.width)) if nest.packs_right else None
        self.tile_sums = self._allocate("tile", (nest.rows, nest.columns, nest.lanes), "local")
        self.partial = self._allocate("products", (parts, *self.form.results["product"])) if parts > 1 else None
        self.partial_sums = self._allocate("column_sums", (parts, self.form.left)) if parts > 1 else None

    def write(self) -> Stmt:
        """All statements."""
        chunk = make_sequence([self._pack_left(), self._over_right()])
        body = _loop(self.chunk, self.last_chunk - self.first_chunk, chunk)
        parts = self.nest.parts[0] * self.nest.parts[1] * self.nest.parts[2]
        whole = make_loop(self.part, parts, body, self._parallel if parts > 1 else None)
        return whole if self.partial is None else make_sequence([whole, self._add_parts(self.partial)])

    # Packing

    def _pack_left(self) -> Stmt:
        """Copy a chunk of the left panels, and add its columns."""
        from tvm import tirx

        nest, copied = self.nest, self.nest.copied
        pieces = nest.side // copied
        panel, unit, token, piece = (make_counter(name) for name in ("panel", "unit", "token", "piece"))
        first = (self.left_begin + panel) * nest.side

        def read(place: Expr, which: Expr) -> Expr:
            row = self.begin + unit * nest.step + place
            return load(self.params["left"], [row, _span(first + which * copied, copied)])

        place = unit * nest.step + token
        copy = store(self.packed_left, read(token, piece), [panel, place, _span(piece * copied, copied)])
        copy = make_loop(piece, pieces, copy, self._unrolled)
        steps = [make_loop(token, nest.step, copy, self._unrolled)]
        panels = self.left_end - self.left_begin
        if not self.form.sums:
            return _loop(panel, panels, _loop(unit, self.count, make_sequence(steps)))
        totals = self._allocate("totals", (pieces, copied), "local")
        lanes = _span(make_index(0), copied)
        which = make_counter("which")
        term = functools.reduce(lambda a, b: a + b, (read(make_index(t), which) for t in range(nest.step)))
        add = store(totals, load(totals, [which, lanes]) + term, [which, lanes])
        steps.insert(0, make_loop(which, pieces, add, self._unrolled))
        begin, end = make_counter("clear"), make_counter("finish")
        clear = make_loop(begin, pieces, store(totals, _wide(0.0, copied), [begin, lanes]), self._unrolled)
        sums, before = self._sums(), [self.token_part] * (self.partial_sums is not None)
        column = [*before, _span(first + end * copied, copied)]
        finish = self._gather(sums, load(totals, [end, lanes]), column)
        finish = tirx.IfThenElse(self.right_part < make_index(1), make_loop(end, pieces, finish, self._unrolled), None)
        body = make_sequence([clear, _loop(unit, self.count, make_sequence(steps)), finish])
        return _loop(panel, panels, body)

    def _pack_right(self, first: Expr) -> Stmt:
        """Copy a chunk of a right panel."""
        nest = self.nest
        token, vector = make_counter("token"), make_counter("vector")
        value = load(self.params["right"], [self.begin + token, _span(first + vector * nest.lanes, nest.lanes)])
        copy = store(self.packed_right, value, [token, _span(vector * nest.lanes, nest.lanes)])
        return _loop(token, self.count * nest.step, make_loop(vector, nest.columns, copy, self._unrolled))

    # Register tiles

    def _over_right(self) -> Stmt:
        """All register tiles of a chunk."""
        nest = self.nest
        right, left, tile = (make_counter(name) for name in ("right_panel", "left_panel", "row_tile"))
        first = (self.right_begin + right) * nest.width
        body = make_loop(tile, nest.tiles, self._tile(right, left, tile))
        body = _loop(left, self.left_end - self.left_begin, body)
        packed = [self._pack_right(first)] if nest.packs_right else []
        return _loop(right, self.right_end - self.right_begin, make_sequence([*packed, body]))

    def _tile(self, right: Expr, left: Expr, tile: Expr) -> Stmt:
        """Sum the tokens of a chunk in registers, and add the tile to the product."""
        from tvm import tirx

        nest, sums = self.nest, self.tile_sums
        lanes = _span(make_index(0), nest.lanes)
        column = (self.right_begin + right) * nest.width
        row = (self.left_begin + left) * nest.side + tile * nest.rows
        unit, token = make_counter("unit"), make_counter("token")

        def add(i: Expr, vector: Expr) -> Stmt:
            place, j = unit * nest.step + token, vector * nest.lanes
            factor = load(self.packed_left, [left, place, tile * nest.rows + i])
            if self.packed_right is not None:
                value = load(self.packed_right, [place, _span(j, nest.lanes)])
            else:
                value = load(self.params["right"], [self.begin + place, _span(column + j, nest.lanes)])
            term = (tirx.Broadcast(factor, nest.lanes) if nest.lanes > 1 else factor) * value
            return store(sums, load(sums, [i, vector, lanes]) + term, [i, vector, lanes])

        before = [self.token_part] * (self.partial is not None)
        target = self.params["product"] if self.partial is None else self.partial

        def finish(first: bool, i: Expr, vector: Expr) -> Stmt:
            place = [*before, row + i, _span(column + vector * nest.lanes, nest.lanes)]
            value = load(sums, [i, vector, lanes])
            return store(target, value if first else load(target, place) + value, place)

        clear = self._over_tile(lambda i, vector: store(sums, _wide(0.0, nest.lanes), [i, vector, lanes]))
        body = [make_loop(token, nest.step, self._over_tile(add), self._unrolled)]
        if nest.ahead:
            at_once, spread = self._fetch_product([*before, row, column], unit)
            body = [*self._fetch_chunk(right, left, tile, unit), *spread, *body]
            clear = make_sequence([*at_once, clear])
        ends = [self._over_tile(functools.partial(finish, first)) for first in (True, False)]
        end = tirx.IfThenElse(self.chunk < make_index(1), *ends)
        return make_sequence([clear, _loop(unit, self.count, make_sequence(body)), end])

    def _fetch_chunk(self, right: Expr, left: Expr, tile: Expr, unit: Expr) -> list[Stmt]:
        """Fetch lines of the next chunk, which all tiles together fetch.

        After the last chunk, addresses lie beyond the data. Fetching them does nothing.
        """
        nest = self.nest
        tiles = max(1, nest.panels[0] // nest.parts[1]) * nest.tiles
        all_tiles = max(1, nest.panels[1] // nest.parts[2]) * tiles
        own = left * nest.tiles + tile
        next_row = self.end + unit * nest.step
        found = []
        column, lines = (self.right_begin + right) * nest.width, -(-nest.width // _LINE)
        for line in _shares(own, nest.step * lines, tiles):
            place = [next_row + line // lines, column + line % lines * _LINE]
            found.append(_fetch(self.params["right"], place, 0, _SECOND_CACHE))
        column, lines = self.left_begin * nest.side, -(-self.own_left * nest.side // _LINE)
        for line in _shares(right * tiles + own, nest.step * lines, all_tiles):
            place = [next_row + line // lines, column + line % lines * _LINE]
            found.append(_fetch(self.params["left"], place, 0, _SECOND_CACHE))
        return found

    def _fetch_product(self, place: list[Expr], unit: Expr) -> tuple[list[Stmt], list[Stmt]]:
        """Fetch the lines of the product that a tile is added to: before its sums, or one after the other meanwhile.

        Args:
            place: of the tile's first element.
            unit: the step of the tokens.
        """
        nest, (*before, row, column) = self.nest, place
        target = self.params["product"] if self.partial is None else self.partial
        lines = -(-nest.width // _LINE)
        count = nest.rows * lines

        def fetch(line: Expr) -> Stmt:
            return _fetch(target, [*before, row + line // lines, column + line % lines * _LINE], 1, _ALL_CACHES)

        if count <= _AT_ONCE:
            return [fetch(make_index(line)) for line in range(count)], []
        each = -(-count // (nest.units // nest.chunks))
        return [], [fetch(bound_index(unit * each + other, count - 1)) for other in range(each)]

    # Parts of the tokens

    def _sums(self) -> Var:
        """Where the sums of columns are added."""
        return self.params["sums"] if self.partial_sums is None else self.partial_sums

    def _gather(self, buffer: Var, value: Expr, place: list[Expr]) -> Stmt:
        """Store a value in the first chunk, and add it in others."""
        from tvm import tirx

        more = store(buffer, load(buffer, place) + value, place)
        return tirx.IfThenElse(self.chunk < make_index(1), store(buffer, value, place), more)

    def _add_parts(self, partial: Var) -> Stmt:
        """Add the products of all parts of the tokens."""
        nest, form = self.nest, self.form
        row, vector = make_counter("row"), make_counter("vector")
        column = _span(vector * nest.lanes, nest.lanes)
        parts = range(nest.parts[0])
        total = functools.reduce(lambda a, b: a + b, (load(partial, [make_index(p), row, column]) for p in parts))
        body = make_loop(vector, form.right // nest.lanes, store(self.params["product"], total, [row, column]))
        if form.sums:
            sums = (load(self._sums(), [make_index(p), row]) for p in parts)
            body = make_sequence([body, store(self.params["sums"], functools.reduce(lambda a, b: a + b, sums), [row])])
        return make_loop(row, form.left, body, self._parallel)

    # Loops

    def _over_tile(self, element: _Element) -> Stmt:
        """The statement at each row and vector of a register tile."""
        row, vector = make_counter("row"), make_counter("vector")
        body = make_loop(vector, self.nest.columns, element(row, vector), self._unrolled)
        return make_loop(row, self.nest.rows, body, self._unrolled)

    def _allocate(self, name: str, shape: tuple[int, ...], scope: str = "global") -> Var:
        buffer = declare(name, shape, scope=scope)
        self.buffers.append(buffer)
        return buffer

    @property
    def _unrolled(self) -> ForKind:
        from tvm.tirx import ForKind

        return ForKind.UNROLLED

    @property
    def _parallel(self) -> ForKind:
        from tvm.tirx import ForKind

        return ForKind.PARALLEL


def _cut(part: Expr, extent: int, parts: int) -> tuple[Expr, Expr]:
    """The begin and the end of a part of ``extent`` things that are cut into ``parts``."""
    if extent % parts == 0:
        return part * (extent // parts), part * (extent // parts) + extent // parts
    return part * extent // parts, (part + 1) * extent // parts


def _shares(own: Expr, lines: int, tiles: int) -> list[Expr]:
    """The lines that a tile fetches, if ``tiles`` share them. Tiles may share a line, if there are more of them."""
    each = -(-lines // tiles)
    if each == 1:
        return [bound_index(own * lines // tiles, lines - 1)]
    return [bound_index(own * each + other, lines - 1) for other in range(each)]


def _fetch(buffer: Var, place: list[Expr], writes: int, locality: int) -> Stmt:
    from tvm import tirx

    address = tirx.address_of(tirx.BufferLoad(buffer, place))
    return tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, writes, locality, _DATA))


def _span(first: Expr, count: int) -> Expr:
    """The indices of neighbouring elements."""
    from tvm import tirx

    return tirx.Ramp(first, make_index(1), count) if count > 1 else first


def _wide(value: float, lanes: int) -> Expr:
    """A vector of the same number."""
    from tvm import tirx

    return tirx.Broadcast(number(value), lanes) if lanes > 1 else number(value)


def _loop(counter: Var, extent: Expr, body: Stmt) -> Stmt:
    """A serial loop from 0 to an extent that may depend on outer loops."""
    from tvm import tirx

    return tirx.For(counter, make_index(0), extent, tirx.ForKind.SERIAL, body)
