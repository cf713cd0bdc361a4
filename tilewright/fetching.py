"""Prefetches what a register tile writes, and what is read beside it, into the first cache while the tile is summed.

The sums of a tile leave the registers all at once: 24 vectors are 24 lines of a cache, and a processor waits for 10 to
16 lines at a time. If no cache holds these lines, they come from memory before they are written. So the loop over the
sums fetches them one after the other:

    for k: tile += A[k] * W[k];                      for i, o: Y[i, o] = tile[i, o] + R[i, o]
    -->
    for k: fetch Y[i(k), o] and R[i(k), o] for all o; tile += A[k] * W[k];      for i, o: Y[i, o] = tile[i, o] + R[i, o]

A template annotates the loop over k with :data:`AHEAD`. The fetches are added when a kernel is compiled. MetaSchedule
has no primitive for them, so the trace of a program stays valid in its databases.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tvm.ir import Expr, TensorRegion, Var
    from tvm.tirx import For, PrimFunc, SBlockRealize, SeqStmt, Stmt

__all__ = ["AHEAD", "LOCAL_SUMS", "fetch_ahead"]

#: The annotation of a loop over the sums of a tile. The tile is written right after it.
AHEAD = "tilewright.ahead"
#: The attribute of functions with fetches, whose register tiles stay in registers although lines are fetched.
LOCAL_SUMS = "tilewright.local_sums"
#: Arguments of LLVM's prefetch: the locality (into all caches), and the kind of cache (for data).
_ALL_CACHES, _DATA = 3, 1


def fetch_ahead(function: PrimFunc) -> PrimFunc:
    """The function with fetches in its annotated loops; the function itself if it has no such loop.

    Args:
        function: scheduled, not lowered.
    """
    from tvm import tirx
    from tvm_ffi import structural_map

    def add(node: SeqStmt) -> SeqStmt:
        sums = [s for s in node.seq if isinstance(s, tirx.For) and AHEAD in (s.annotations or {})]
        if not sums:
            return node
        (loop,) = sums
        kept = {key: value for key, value in loop.annotations.items() if key != AHEAD}
        body = tirx.SeqStmt([*_fetches(loop, *_nest(node.seq[-1])), loop.body])
        new = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, kept)
        return tirx.SeqStmt([new if s.same_as(loop) else s for s in node.seq])

    body = structural_map(function.body, (tirx.SeqStmt, add))
    if body.same_as(function.body):
        return function
    return function.with_body(body).with_attr(LOCAL_SUMS, 1)


def _nest(statement: Stmt) -> tuple[list[For], SBlockRealize]:
    """The loops that write a tile, and the block in them."""
    from tvm import tirx

    loops = []
    while isinstance(statement, tirx.For):
        loops.append(statement)
        statement = statement.body
    return loops, statement


def _fetches(sums: For, loops: list[For], writer: SBlockRealize) -> Iterator[Stmt]:
    """The fetches of one step of the loop over the sums. All steps together fetch each line of the tile.

    Args:
        sums: the loop over the sums.
        loops: of the writer: rows of the tile, perhaps blocks of columns, and lanes.
        writer: writes the tile.
    """
    from tvm import tirx

    if len(loops) < 2:  # a tile of one vector
        return
    rows, *columns, lanes = loops
    count, steps = int(rows.extent), int(sums.extent)
    each = -(-count // steps)
    zero = tirx.const(0, str(lanes.loop_var.ty.dtype))
    inside = dict(zip((axis.var for axis in writer.block.iter_vars), writer.iter_values, strict=True))
    written = writer.block.writes[0]
    others = [region for region in writer.block.reads if not region.source.same_as(written.source)]
    regions = [(written, 1), *((region, 0) for region in others)]
    regions = [(region, writes) for region, writes in regions if _follows(region, inside, rows.loop_var)]
    for part in range(each):
        row = sums.loop_var * count // steps
        if each > 1:
            row = tirx.min(sums.loop_var * each + part, tirx.const(count - 1, str(rows.loop_var.ty.dtype)))
        for number in range(math.prod(int(loop.extent) for loop in columns)):
            values: dict[Var, Expr] = {rows.loop_var: row, lanes.loop_var: zero}
            rest = number
            for loop in reversed(columns):
                rest, place = divmod(rest, int(loop.extent))
                values[loop.loop_var] = tirx.const(place, str(loop.loop_var.ty.dtype))
            for region, writes in regions:
                yield _fetch(region, inside, values, writes)


def _follows(region: TensorRegion, inside: dict[Var, Expr], row: Var) -> bool:
    """Whether each row of a tile reads or writes another place of a tensor in memory."""
    from tvm.tirx.analysis import undefined_vars

    if region.source.ty.storage_scope == "local":
        return False
    places = [_substitute(extent.min, inside) for extent in region.region]
    return any(variable.same_as(row) for place in places for variable in undefined_vars(place))


def _fetch(region: TensorRegion, inside: dict[Var, Expr], values: dict[Var, Expr], writes: int) -> Stmt:
    from tvm import tirx

    indices = [_substitute(_substitute(extent.min, inside), values) for extent in region.region]
    address = tirx.address_of(tirx.BufferLoad(region.source, indices))
    return tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, writes, _ALL_CACHES, _DATA))


def _substitute(value: Expr, values: dict[Var, Expr]) -> Expr:
    from tvm.ir import Var
    from tvm_ffi import structural_map

    made: Expr = structural_map(value, (Var, lambda variable: values.get(variable, variable)))
    return made
