"""Writes the program of a recurrent operator: a loop over steps, which holds the recurrent product and the gates.

for strand: for each step: for each phase: for share of the blocks: for group of blocks: for tile of rows:
    registers: the inputs of the tile's rows and units, for all gates of the phase
    for k: each register += h[row, k] * r[block, k, gate]
    the activations, and the new state

A strand is a part of the batch in one direction. If groups or tiles do not divide their range, the last one begins
earlier, and computes some elements twice. That is correct, because a step never overwrites its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from tilewright.ops.recurrent.cell import Cell
from tilewright.ops.recurrent.elements import Elements, Place
from tilewright.ops.recurrent.gates import Registers, finish_phase
from tilewright.ops.statements import bound_index, load, make_counter, make_index, make_loop, make_sequence

if TYPE_CHECKING:
    from tvm.ir import Var
    from tvm.tirx import ForKind, Stmt

__all__ = ["PLAIN", "Nest", "write_steps"]

#: The statements for the element at a place.
_Element: TypeAlias = "Callable[[Place], list[Stmt]]"


@dataclass(frozen=True)
class Nest:
    """How the loops of a recurrent operator are arranged.

    Attributes:
        pieces: the strands of each direction.
        rows: the rows of the batch in a tile.
        vectors: the blocks of units in a tile.
        unroll: the unrolled steps of the recurrent product. It divides the units.
        strands: whether strands run in parallel.
        shares: the number of shares of a step's groups of blocks that run in parallel; 0: groups run one by one.
        turning: whether every second step runs its groups in reverse order, to begin with weights in the caches.
        written_out: whether inner loops are vectorised and unrolled; otherwise they stay plain loops.
    """

    pieces: int = 1
    rows: int = 1
    vectors: int = 1
    unroll: int = 1
    strands: bool = False
    shares: int = 0
    turning: bool = False
    written_out: bool = True


#: The plain loops of the operator's function before scheduling.
PLAIN = Nest(written_out=False)


def write_steps(cell: Cell, params: Sequence[Var], nest: Nest) -> tuple[Stmt, list[Var]]:
    """The statements of a recurrent operator, and the buffers that they need.

    Args:
        cell: the operator.
        params: one buffer for each of ``cell.shapes``.
        nest: how the loops are arranged.
    """
    writer = _Writer(cell, params, nest)
    return writer.write(), writer.elements.buffers


class _Writer:
    """Writes the loops of one operator around the statements of its elements."""

    def __init__(self, cell: Cell, params: Sequence[Var], nest: Nest) -> None:
        self._cell, self._nest = cell, nest
        self._strand = -(-cell.batch // nest.pieces)
        self._rows, self._vectors = min(nest.rows, self._strand), min(nest.vectors, cell.blocks)
        self.elements = Elements(cell, params, self._strand)

    def write(self) -> Stmt:
        """All statements."""
        from tvm.tirx import ForKind

        cell, pieces = self._cell, self._nest.pieces
        strand, step = make_counter("strand"), make_counter("step")
        first = bound_index(strand % pieces * self._strand, cell.batch - self._strand)
        place = Place(strand // pieces, first if pieces > 1 else make_index(0), step)
        steps = make_sequence([self._phase(number, place) for number in range(len(cell.phases))])
        parts = [self._over_state(place, self.elements.begin), make_loop(step, cell.steps, steps)]
        if {"y_h", "y_c"} & {*cell.outputs}:
            parts.append(self._over_state(place, self.elements.end))
        strands = cell.directions * pieces
        parallel = self._nest.strands and strands > 1
        return make_loop(strand, strands, make_sequence(parts), ForKind.PARALLEL if parallel else None)

    def _phase(self, number: int, place: Place) -> Stmt:
        """A phase of a step: the tiles of all blocks and rows."""
        from tvm import tirx

        share, group, tile = make_counter("share"), make_counter("group"), make_counter("tile")
        groups, tiles = -(-self._cell.blocks // self._vectors), -(-self._strand // self._rows)
        shares = min(self._nest.shares, groups)
        each = -(-groups // max(1, shares))
        turn = place.step % 2 < 1
        place_in_share = tirx.Select(turn, group, each - 1 - group) if self._nest.turning else group
        here = bound_index(share * each + place_in_share, groups - 1)
        block = bound_index(here * self._vectors, self._cell.blocks - self._vectors)
        row = bound_index(tile * self._rows, self._strand - self._rows)
        body = make_loop(tile, tiles, self._tile(number, replace(place, block=block, row=row)))
        body = make_loop(group, each, body)
        return make_loop(share, max(1, shares), body, tirx.ForKind.PARALLEL if shares > 1 else None)

    def _tile(self, phase: int, place: Place) -> Stmt:
        """The products of a tile, its activations, and its new state."""
        cell, nest, elements = self._cell, self._nest, self.elements
        gates = cell.phases[phase]
        shape = (self._rows, self._vectors, len(gates), cell.block)
        buffer = elements.allocate(f"registers{phase}", shape, scope="local")
        outer, inner = make_counter("k"), make_counter("u")
        k = outer * nest.unroll + inner

        def start(at: Place) -> list[Stmt]:
            registers = Registers(buffer, at, gates)
            return [registers.put(gate, elements.load_start(gate, at)) for gate in gates]

        def add(at: Place) -> list[Stmt]:
            registers = Registers(buffer, at, gates)
            state = load(elements.reset, [at.row, k]) if phase else load(elements.h, [at.step % 2, at.row, k])
            return [
                registers.put(gate, registers.get(gate) + state * elements.load_weight(gate, at, k)) for gate in gates
            ]

        def finish(at: Place) -> list[Stmt]:
            return finish_phase(elements, at, Registers(buffer, at, gates))

        product = make_loop(inner, nest.unroll, self._over_tile(place, add), self._unrolled)
        product = make_loop(outer, cell.hidden // nest.unroll, product)
        return make_sequence([self._over_tile(place, start), product, self._over_tile(place, finish)])

    def _over_tile(self, place: Place, element: _Element) -> Stmt:
        """The statements of each element of a tile."""
        row, block, lane = make_counter("row"), make_counter("block"), make_counter("lane")
        at = replace(place, row=place.row + row, block=place.block + block, lane=lane, slot=(row, block))
        body = make_loop(row, self._rows, self._over_lanes(lane, element(at)), self._unrolled)
        return make_loop(block, self._vectors, body, self._unrolled)

    def _over_state(self, place: Place, element: _Element) -> Stmt:
        """The statements of each element of a strand's state."""
        row, block, lane = make_counter("row"), make_counter("block"), make_counter("lane")
        body = self._over_lanes(lane, element(replace(place, row=row, block=block, lane=lane)))
        return make_loop(row, self._strand, make_loop(block, self._cell.blocks, body))

    def _over_lanes(self, lane: Var, statements: list[Stmt]) -> Stmt:
        from tvm.tirx import ForKind

        vector = self._nest.written_out and self._cell.block > 1
        return make_loop(lane, self._cell.block, make_sequence(statements), ForKind.VECTORIZED if vector else None)

    @property
    def _unrolled(self) -> ForKind | None:
        from tvm.tirx import ForKind

        return ForKind.UNROLLED if self._nest.written_out else None
