"""Writes the program of squeeze and excitation: three stages in one kernel, each on one thread or on all.

for n, block:                                     the mean
    for row: for chunk of columns: S[j, lanes] += X[n, block, row, chunk + j, lanes]
    M[n, block, lanes] = what follows of the sum of S
for block: for n:                                 each product
    for inner block, chunk of its lanes: S[j, lanes] += M[n, inner block, chunk + j] * W[block, inner block, ..., lanes]
    M'[n, block, lanes] = what follows of the sum of S
for block: for n: for row: for column:            the product with the image, if there is one
    Y[n, block, row, column, lanes] = X[n, block, row, column, lanes] * G[n, block, lanes]

Several sums at once hide the latency of an addition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tilewright.ops.excitation.form import Excitation, Stage
from tilewright.ops.statements import load, make_counter, make_index, make_loop, make_sequence, store
from tilewright.ops.written import declare, write_after

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.s_tir import SBlock
    from tvm.tirx import Stmt

__all__ = ["write_excitation"]

#: Sums that are added up at once: an addition takes four cycles, and two begin in each.
_SUMS = 8


def write_excitation(form: Excitation, parallel: Sequence[bool]) -> tuple[Stmt, list[Var]]:
    """The statements of squeeze and excitation, and the buffers that they need.

    Args:
        form: what is computed.
        parallel: which stages run on all threads; then whether the product of the image and the gates does, if it is
            computed.
    """
    writer = _Writer(form)
    stages = [writer.write(stage, wide) for stage, wide in zip(form.stages, parallel, strict=False)]
    if form.gated is not None:
        stages.append(writer.multiply_image(form.gated, parallel[len(form.stages)]))
    return make_sequence(stages), writer.buffers


class _Writer:
    def __init__(self, form: Excitation) -> None:
        self.form = form
        kept = form.stages[:2] if form.gated is None else form.stages
        self.buffers: list[Var] = [stage.result for stage in kept]

    def write(self, stage: Stage, parallel: bool) -> Stmt:
        """All sums of a stage, and what follows each."""
        from tvm import tirx

        part, batch = make_counter("part"), make_index(self.form.batch)
        item, block = part % batch, tirx.floordiv(part, batch)
        sums = declare(f"sums{len(self.buffers)}", (_SUMS, stage.lanes), scope="local")
        self.buffers.append(sums)
        lines = [self._vector(stage, self._clear(sums, j)) for j in range(_SUMS)]
        lines.append(
            self._add_pixels(stage, sums, item, block)
            if stage.weight is None
            else self._multiply(stage, sums, item, block)
        )
        step = 1
        while step < _SUMS:
            lines += [self._vector(stage, self._add(sums, j, j + step)) for j in range(0, _SUMS, 2 * step)]
            step *= 2
        variables, after = stage.writes

        def finish(lane: Expr) -> Stmt:
            places = [item, block, make_index(0), make_index(0), lane]
            return write_after(after, variables, places, stage.sums, load(sums, [make_index(0), lane]))

        lines.append(self._vector(stage, finish))
        count = self.form.batch * stage.blocks
        kind = tirx.ForKind.PARALLEL if parallel and count > 1 else None
        return make_loop(part, count, make_sequence(lines), kind)

    def multiply_image(self, gated: tuple[tuple[Var, ...], SBlock], parallel: bool) -> Stmt:
        """The product of the image and the gates, as the function has it."""
        from tvm import tirx
        from tvm.ir import Var
        from tvm_ffi import structural_map

        variables, block = gated
        form, stage = self.form, self.form.stages[2]
        part, row, column, batch = *map(make_counter, ("part", "row", "column")), make_index(self.form.batch)
        item, channels = part % batch, tirx.floordiv(part, batch)

        def lanes(lane: Expr) -> Stmt:
            places = dict(zip(variables, (item, channels, row, column, lane), strict=True))
            written: Stmt = structural_map(block.body, (Var, lambda node: places.get(node, node)))
            return written

        pixels = make_loop(row, form.rows, make_loop(column, form.columns, self._vector(stage, lanes)))
        kind = tirx.ForKind.PARALLEL if parallel else None
        return make_loop(part, form.batch * stage.blocks, pixels, kind)

    def _add_pixels(self, stage: Stage, sums: Var, item: Expr, block: Expr) -> Stmt:
        """Add up the pixels of a block."""
        row = make_counter("row")

        def add(column: Expr, j: int) -> Stmt:
            def lanes(lane: Expr) -> Stmt:
                place = [make_index(j), lane]
                pixel = load(stage.operand, [item, block, row, column, lane])
                return store(sums, load(sums, place) + pixel, place)

            return self._vector(stage, lanes)

        return make_loop(row, self.form.rows, _chunks(self.form.columns, add))

    def _multiply(self, stage: Stage, sums: Var, item: Expr, block: Expr) -> Stmt:
        """Add up the products of a block of weights."""
        inner, zero = make_counter("inner"), make_index(0)
        weight = stage.weight
        assert weight is not None
        blocks, width = (int(stage.operand.ty.shape[axis]) for axis in (1, 4))

        def add(place: Expr, j: int) -> Stmt:
            def lanes(lane: Expr) -> Stmt:
                number = load(stage.operand, [item, inner, zero, zero, place])
                factor = load(weight, [block, inner, zero, zero, place, lane])
                at = [make_index(j), lane]
                return store(sums, load(sums, at) + number * factor, at)

            return self._vector(stage, lanes)

        return make_loop(inner, blocks, _chunks(width, add))

    def _clear(self, sums: Var, j: int) -> Callable[[Expr], Stmt]:
        from tvm import tirx

        return lambda lane: store(sums, tirx.const(0.0, "float32"), [make_index(j), lane])

    def _add(self, sums: Var, j: int, other: int) -> Callable[[Expr], Stmt]:
        def lanes(lane: Expr) -> Stmt:
            place = [make_index(j), lane]
            return store(sums, load(sums, place) + load(sums, [make_index(other), lane]), place)

        return lanes

    def _vector(self, stage: Stage, write: Callable[[Expr], Stmt]) -> Stmt:
        """A statement for all lanes."""
        from tvm import tirx

        lane = make_counter("lane")
        return make_loop(lane, stage.lanes, write(lane), tirx.ForKind.VECTORIZED)


def _chunks(extent: int, add: Callable[[Expr, int], Stmt]) -> Stmt:
    """A loop over chunks of :data:`_SUMS` steps, which are written out, and the steps that are left."""
    chunk, whole = make_counter("chunk"), extent // _SUMS
    lines = []
    if whole:
        steps = make_sequence([add(chunk * _SUMS + j, j) for j in range(_SUMS)])
        lines.append(make_loop(chunk, whole, steps))
    lines += [add(make_index(whole * _SUMS + j), j) for j in range(extent % _SUMS)]
    return make_sequence(lines)
