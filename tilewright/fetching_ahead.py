"""Prefetches what the next steps of a convolution read: weights and data.

A kernel that is timed alone finds its operands in the second cache. In a network, its weights come from memory or the
last cache, and half of its data lie in the caches of another core. A register tile waits for these lines, since a
processor looks only some hundred instructions ahead. So the loop over the sums of a tile fetches them:

    for o: for p:                                     tile t of the T tiles of pixels that use the weights of o
        for rc: for ri: tile += A[rc, p, ri] * W[o, rc, ri]
        Y[o, p] = tile
    -->
    for o: for p:
        for rc:
            fetch the t-th of T parts of W[o + 1, rc], and A[rc + 2, p]
            for ri: tile += A[rc, p, ri] * W[o, rc, ri]
        Y[o, p] = tile

The weights of all outputs of a tile are a *panel*. Without fetches, the first tile of pixels reads the whole panel from
far away. With them, each tile of the panel before has fetched a part of it. So memory is read while a core multiplies.

A template annotates the loop around the sums of a block of inputs with :data:`STEPS`. The fetches are added when a
kernel is compiled, as those of :mod:`tilewright.fetching` are.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.fetching import LOCAL_SUMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tvm.ir import Expr, TensorRegion, Var
    from tvm.s_tir import SBlockRealize
    from tvm.tirx import For, PrimFunc, SeqStmt, Stmt

__all__ = ["STEPS", "Steps", "fetch_steps"]

#: The annotation of the loop around the sums of a block of inputs. Its value is that of :meth:`Steps.encode`.
STEPS = "tilewright.steps"
#: Arguments of LLVM's prefetch: the locality (into the second cache), and the kind of cache (for data).
_SECOND_CACHE, _DATA = 2, 1
#: Bytes of a line of a cache.
_LINE = 64
#: Blocks of inputs that data are fetched ahead: about 400 cycles, the time until a line comes from another core.
_BLOCKS_AHEAD = 2


@dataclass(frozen=True)
class Steps:
    """What the fetches of a contraction need to know of its tiles.

    Attributes:
        o, w, h, rc, ri, lanes, n: the places of these axes among the block's iterators; -1: there is no such axis.
        outs, cols, rows: of a register tile.
        inputs: that one iteration of the annotated loop sums.
        tiles: the number of tiles of pixels that use a panel one after the other.
        across, down, high: the number of a tile is ``h // rows % high * down + w // cols % across``.
        group: blocks of outputs after which the next matrix ``n`` comes; 0: the next panel always follows in memory.
        weights, data: whether they are fetched.
    """

    o: int
    w: int
    h: int
    rc: int
    ri: int
    lanes: int
    n: int
    outs: int
    cols: int
    rows: int
    inputs: int
    tiles: int
    across: int
    down: int
    high: int
    group: int = 0
    weights: int = 1
    data: int = 0

    def encode(self) -> list[int]:
        """The value of the annotation."""
        return [int(value) for value in dataclasses.astuple(self)]


def fetch_steps(function: PrimFunc) -> PrimFunc:
    """The function with fetches in its annotated loops; the function itself if it has no such loop.

    Args:
        function: scheduled, not lowered.
    """
    from tvm import tirx
    from tvm_ffi import structural_map

    def add(node: SeqStmt) -> SeqStmt:
        statements = list(node.seq)
        for place, statement in enumerate(statements):
            chain = _find_chain(statement)
            if chain:
                statements[place] = _with_fetches(chain)
        return tirx.SeqStmt(statements) if any(map(_differs, statements, node.seq)) else node

    body = structural_map(function.body, (tirx.SeqStmt, add))
    return function if body.same_as(function.body) else function.with_body(body).with_attr(LOCAL_SUMS, 1)


def _differs(one: Stmt, other: Stmt) -> bool:
    return not one.same_as(other)


def _find_chain(statement: Stmt) -> list[For]:
    """The loops from ``statement`` to the annotated one in it; empty without one."""
    from tvm import tirx

    chain = []
    while isinstance(statement, tirx.For):
        chain.append(statement)
        if STEPS in (statement.annotations or {}):
            return chain
        statement = statement.body
    return []


def _with_fetches(chain: list[For]) -> Stmt:
    """The loops ``chain`` with fetches in the last of them."""
    from tvm import tirx

    steps = Steps(*(int(value) for value in chain[-1].annotations[STEPS]))
    fetches = [tirx.Evaluate(call) for call in _Fetches(chain, steps).all()]
    made: Stmt = tirx.SeqStmt([*fetches, chain[-1].body]) if fetches else chain[-1].body
    for loop in reversed(chain):
        kept = {key: value for key, value in (loop.annotations or {}).items() if key != STEPS}
        made = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, made, loop.thread_binding, kept)
    return made


class _Fetches:
    """The fetches of one iteration of the last loop of ``chain``."""

    def __init__(self, chain: list[For], steps: Steps) -> None:
        self.chain, self.steps = chain, steps
        loops, self.block = _nest(chain[-1].body)
        self.dtype = str(chain[-1].loop_var.ty.dtype)
        begin = {loop.loop_var: self._number(0) for loop in loops}
        self.variables = [axis.var for axis in self.block.block.iter_vars]
        self.values = [_substitute(value, begin) for value in self.block.iter_values]

    def all(self) -> Iterator[Expr]:
        """The calls of the prefetch."""
        stmt = self.block.block
        operands = [region for region in stmt.reads if not region.source.same_as(stmt.writes[0].source)]
        lane = self.variables[self.steps.lanes]
        for region in operands:
            if _depends(region, lane):
                yield from self._weights(region)
            else:
                yield from self._data(region)

    def _weights(self, region: TensorRegion) -> Iterator[Expr]:
        """This tile's part of the next panel, of the inputs that the iteration sums."""
        steps = self.steps
        if not steps.weights:
            return
        lanes = _extent(region.source.ty.shape[-1])
        rows = steps.outs * steps.inputs
        tile = self._value(steps.w) // steps.cols % steps.across
        if steps.h >= 0 and steps.down:
            tile = tile + self._value(steps.h) // steps.rows % steps.high * steps.down
        for row in self._share(tile, steps.tiles, rows):
            values = list(self.values)
            values[steps.o] = self._value(steps.o) + steps.outs + row // steps.inputs
            values[steps.ri] = self._value(steps.ri) + row % steps.inputs
            if steps.group:
                self._wrap(values)
            for lane in range(0, lanes, max(1, _LINE // _itemsize(region))):
                yield self._fetch(region, values, {steps.lanes: lane})

    def _wrap(self, values: list[Expr]) -> None:
        """Where the group of outputs ends, its first panel in the next matrix follows."""
        from tvm import tirx

        o, n, group = self.steps.o, self.steps.n, self.steps.group
        over = values[o] // group > self._value(o) // group
        values[n] = tirx.Select(over, self._value(n) + 1, self._value(n))
        values[o] = tirx.Select(over, values[o] - group, values[o])

    def _data(self, region: TensorRegion) -> Iterator[Expr]:
        """The data of a later block of inputs: of this tile, or of the next one."""
        from tvm import tirx

        steps = self.steps
        blocks = next((_extent(loop.extent) for loop in self.chain if self._moves(loop, steps.rc)), 1)
        if not steps.data or blocks < _BLOCKS_AHEAD:
            return
        later = self._value(steps.rc) + _BLOCKS_AHEAD
        over = later >= blocks
        values = list(self.values)
        values[steps.rc] = tirx.Select(over, later - blocks, later)
        first = self._value(steps.w) + tirx.Select(over, self._number(steps.cols), self._number(0))
        for column in range(steps.cols):
            values[steps.w] = first + column
            for i in range(0, steps.inputs, max(1, _LINE // _itemsize(region))):
                yield self._fetch(region, values, {steps.ri: i})

    def _moves(self, loop: For, place: int) -> bool:
        """Whether a loop moves the iterator at ``place``."""
        from tvm.tirx.analysis import undefined_vars

        return place >= 0 and any(v.same_as(loop.loop_var) for v in undefined_vars(self.values[place]))

    def _share(self, step: Expr, steps: int, count: int) -> Iterator[Expr]:
        """The numbers below ``count`` that are this step's. All ``steps`` together have each number."""
        from tvm import tirx

        each = -(-count // steps)
        if each == 1:
            yield step * count // steps
            return
        for part in range(each):
            yield tirx.min(step * each + part, self._number(count - 1))

    def _fetch(self, region: TensorRegion, values: Sequence[Expr], moved: Mapping[int, int]) -> Expr:
        at = {v: value for v, value in zip(self.variables, values, strict=True)}
        for place, offset in moved.items():
            at[self.variables[place]] = at[self.variables[place]] + offset
        return _prefetch(region, [_substitute(r.min, at) for r in region.region])

    def _value(self, place: int) -> Expr:
        return self.values[place]

    def _number(self, value: int) -> Expr:
        from tvm import tirx

        return tirx.const(value, self.dtype)


def _nest(statement: Stmt) -> tuple[list[For], SBlockRealize]:
    """Nested loops, and the block in them."""
    from tvm import tirx

    loops = []
    while isinstance(statement, tirx.For):
        loops.append(statement)
        statement = statement.body
    return loops, statement


def _depends(region: TensorRegion, variable: Var) -> bool:
    from tvm.tirx.analysis import undefined_vars

    return any(v.same_as(variable) for r in region.region for v in undefined_vars(r.min))


def _prefetch(region: TensorRegion, indices: Sequence[Expr]) -> Expr:
    from tvm import tirx

    address = tirx.address_of(tirx.BufferLoad(region.source, list(indices)))
    return tirx.call_intrin("void", "tirx.prefetch", address, 0, _SECOND_CACHE, _DATA)


def _itemsize(region: TensorRegion) -> int:
    import tvm

    return max(1, int(tvm.DataType(str(region.source.ty.dtype)).bits) // 8)


def _extent(value: object) -> int:
    return int(getattr(value, "value", value))  # type: ignore[call-overload, no-any-return]  # TVM has no types


def _substitute(value: Expr, values: Mapping[Var, Expr]) -> Expr:
    from tvm.ir import Var
    from tvm_ffi import structural_map

    made: Expr = structural_map(value, (Var, lambda variable: values.get(variable, variable)))
    return made
