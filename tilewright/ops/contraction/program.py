"""Makes the register-blocked program of a contraction with TVM.

for n, tiles of outputs and pixels, the outermost of them in parallel:
    for rc, kh, kw, ri/unroll:                          accumulators stay in registers
        unrolled for ri, rows, cols, outs: vectorised for l: C[...] += A[...] * W[..., l]
    unrolled for outs, rows, cols: vectorised for l: Y[...] = epilogue(C[...])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.fetching import AHEAD
from tilewright.fetching_ahead import STEPS
from tilewright.ops.contraction.dot_products import DotProduct
from tilewright.ops.contraction.form import BLOCK, Form, find_pad
from tilewright.ops.contraction.steps import find_steps
from tilewright.ops.statements import bind_once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tvm.ir import Expr, IRModule, TensorLoad, TensorRegion, Var
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import LoopRV, SBlockRV
    from tvm.tirx import IndexMap, Stmt

__all__ = ["PAD_INSIDE", "PAD_PARALLEL", "PAD_SERIAL", "Decisions", "build_program", "prepare"]

#: Where the data are padded: in a parallel loop of its own, inside the contraction's, or in a serial loop of its own.
PAD_PARALLEL, PAD_INSIDE, PAD_SERIAL = 0, 1, 2

#: Elements of the longest vector in padding and in a writer with loops of its own.
_LONGEST_VECTOR = 16


@dataclass(frozen=True)
class Decisions:
    """What one config decides.

    Attributes:
        o: factors of the output blocks: outer, cache, register.
        h: factors of the rows: outer, register.
        w: factors of the columns, or of all pixels where they are fused: outer, cache, register. With an axis of rows
            the outer factor is 1: the outer loop of the rows takes its place.
        outer: order of the outer loops: (o0, o1, h0, w0) by number.
        reduction: order of the reduction loops: (rc, kh, kw, outer ri) by number.
        unroll: number of ``ri`` that are written out.
        unroll_kernel: what is written out of the kernel: 0 nothing, 1 its columns, 2 all of it.
        parallel: number of outermost loops that make the parallel loop; batch and groups count as one.
        pad: one of ``PAD_PARALLEL``, ``PAD_INSIDE``, ``PAD_SERIAL``.
        ahead: whether the lines that a tile writes are prefetched while it is summed.
    """

    o: tuple[int, ...]
    h: tuple[int, ...]
    w: tuple[int, ...]
    outer: tuple[int, ...]
    reduction: tuple[int, ...]
    unroll: int
    unroll_kernel: int
    parallel: int
    pad: int
    ahead: bool = False


def prepare(module: IRModule, form: Form) -> tuple[Schedule, SBlockRV, SBlockRV, SBlockRV | None, bool]:
    """Inline all blocks except padding, contraction and the writer of the result, which iterates as the contraction.

    Returns:
        The schedule, the contraction, the writer, the padding, and whether the writer can join the contraction's loops.

    Raises:
        FormError: the function has several results, or what follows the contraction is not element-wise.
    """
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    block = schedule.get_sblock(BLOCK)
    pad = find_pad(schedule, block)
    if not schedule.get_consumers(block):
        schedule.cache_write(block, 0, "local")
    names = [schedule.get(b).name_hint for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    writers = [name for name in names if not schedule.get_consumers(schedule.get_sblock(name))]
    if len(writers) != 1:
        raise FormError(f"a contraction's function has one result, but here are {len(writers)}")
    padding = "" if pad is None else schedule.get(pad).name_hint
    second = _find_second(schedule, names, writers)
    keep = {BLOCK, padding, *writers, *second}
    for name in names:
        if name not in keep:
            schedule.compute_inline(schedule.get_sblock(name))
    schedule = schedule if second else _split_columns(schedule, writers[0])
    block, writer = schedule.get_sblock(BLOCK), schedule.get_sblock(writers[0])
    if any(int(v.iter_type) != 0 for v in schedule.get(writer).iter_vars):
        raise FormError("what follows a contraction is element-wise, but here it is another reduction")
    joins = _align(schedule, block, writer, form)
    if second and not joins:
        raise FormError("a contraction with two results has no padded blocks")
    return schedule, block, writer, None if pad is None else schedule.get_sblock(padding), joins


def _find_second(schedule: Schedule, names: list[str], writers: list[str]) -> list[str]:
    """The block of the second result, which is an element-wise function of the first one; empty: there is one result.

    The block of the first result becomes the writer, in ``writers``.
    """
    params = set(schedule.mod["main"].params)
    results = [name for name in names if schedule.get(schedule.get_sblock(name)).writes[0].source in params]
    if len(results) < 2:
        return []
    first, second = results[0], results[-1]
    blocks = [schedule.get(schedule.get_sblock(name)) for name in (first, second)]
    read = {region.source for region in blocks[1].reads}
    element_wise = all(int(v.iter_type) == 0 for v in blocks[1].iter_vars)
    alike = [int(v.dom.extent) for v in blocks[0].iter_vars] == [int(v.dom.extent) for v in blocks[1].iter_vars]
    if len(results) > 2 or [second] != writers or read != {blocks[0].writes[0].source} or not element_wise or not alike:
        raise FormError("the second result of a contraction is an element-wise function of the first one")
    writers[0] = first
    return [second]


def _split_columns(schedule: Schedule, name: str) -> Schedule:
    """Let the writer ``name`` iterate over blocks of columns, if the last two of these overlap.

    Columns of both blocks are written twice, with the same values.

        for n: Y[n] = f(C[n // x, n - min(n // x * x, N - x)])
        -->
        for o, v: Y[min(o * x, N - x) + v] = f(C[o, v])
    """
    import tvm
    from tvm import tirx
    from tvm.ir import Range
    from tvm.ir import TensorLoad as Load
    from tvm.ir import Var as Variable
    from tvm.s_tir import SBlock, SBlockRealize
    from tvm.s_tir import Schedule as NewSchedule
    from tvm.tirx.analysis import undefined_vars
    from tvm_ffi import structural_map

    result = schedule.get(schedule.get_sblock(BLOCK)).writes[0].source
    writer = schedule.get(schedule.get_sblock(name))
    places = [[i.min for i in region.region] for region in writer.reads if region.source.same_as(result)]
    if len(places) != 1 or not isinstance(places[0][-1], tirx.Sub):
        return schedule
    blocks, lanes = (int(extent) for extent in result.ty.shape[-2:])
    (column,) = undefined_vars(places[0][-2])
    dtype = str(column.ty.dtype)
    count = next(int(v.dom.extent) for v in writer.iter_vars if v.var.same_as(column))
    o, v = (tirx.IterVar(Range(0, n), tirx.Var(text, dtype), 0) for n, text in ((blocks, "v_o"), (lanes, "v_l")))
    place = tirx.min(o.var * lanes, count - lanes) + v.var

    def read(node: TensorLoad) -> Expr:
        same = node.source.same_as(result)
        return tirx.BufferLoad(result, [*node.indices[:-2], o.var, v.var]) if same else node

    def moved(node: Var) -> Expr:
        return place if node.same_as(column) else node

    def region(old: TensorRegion) -> TensorRegion:
        ranges = [Range.from_min_extent(structural_map(r.min, (Variable, moved)), r.extent) for r in old.region]
        if old.source.same_as(result):
            ranges[-2:] = [Range.from_min_extent(axis.var, 1) for axis in (o, v)]
        return tirx.BufferRegion(old.source, ranges)

    body = structural_map(structural_map(writer.body, (Load, read)), (Variable, moved))
    axes = [axis for old in writer.iter_vars for axis in ((o, v) if old.var.same_as(column) else (old,))]
    loops = [tirx.Var(axis.var.name, dtype) for axis in axes]
    new = SBlock(axes, list(map(region, writer.reads)), list(map(region, writer.writes)), name, body)
    nest: Stmt = SBlockRealize(loops, tirx.const(True, "bool"), new)
    for loop, axis in zip(reversed(loops), reversed(axes), strict=True):
        nest = tirx.For(loop, 0, axis.dom.extent, tirx.ForKind.SERIAL, nest)
    function = schedule.mod["main"]
    root = function.body.block
    *others, _ = root.body.seq
    made = SBlock([], [], [], root.name_hint, tirx.SeqStmt([*others, nest]), None, root.alloc_buffers)
    main = function.with_body(bind_once(SBlockRealize([], tirx.const(True, "bool"), made)))
    return NewSchedule(tvm.ir.IRModule({"main": main}), seed=1)


def _align(schedule: Schedule, block: SBlockRV, writer: SBlockRV, form: Form) -> bool:
    """Iterate the writer as the contraction. Returns whether that is possible; it is not for a padded last block."""
    from tvm.tirx import IndexMap

    result = schedule.get(block).writes[0].source
    stmt = schedule.get(writer)
    regions = [r for r in stmt.reads if r.source.same_as(result)]
    if len(regions) != 1:
        raise FormError("what follows a contraction reads its result in one place")
    place = [r.min for r in regions[0].region]
    variables = [v.var for v in stmt.iter_vars]
    dtype = str(variables[0].ty.dtype)
    size = math.prod(int(v.dom.extent) for v in stmt.iter_vars)
    if size != math.prod(form.extents[a] for a in form.iterators[: form.spatial]):
        return False
    rows = form.iterators.index("h") if form.fused else -1
    width = int(schedule.get(block).iter_vars[rows + 1].dom.extent) if form.fused else 1

    grouped = form.together > 1

    def fuse(*axes: Expr) -> tuple[Expr, ...]:
        if not form.fused:
            return axes
        return (*axes[:rows], axes[rows] * width + axes[rows + 1], *axes[rows + 2 :])

    def writer_map(*axes: Expr) -> tuple[Expr, ...]:
        return fuse(*IndexMap(variables, place, None).map_indices(list(axes)))

    identity = len(place) == len(variables) and all(p.same_as(v) for p, v in zip(place, variables, strict=True))
    if form.fused:
        spatial = form.spatial
        schedule.transform_layout(block, ("write", 0), _fixed(fuse, spatial, dtype))
        schedule.transform_block_layout(
            block,
            _fixed(lambda *axes: (*fuse(*axes[:spatial]), *axes[spatial:]), len(form.iterators) + grouped, dtype),
        )
    if form.fused or not identity:
        schedule.transform_block_layout(writer, _fixed(writer_map, len(variables), dtype))
    return True


def _fixed(function: Callable[..., tuple[Expr, ...]], count: int, dtype: str) -> IndexMap:
    """An index map of ``count`` indices, made of a function of any number of indices.

    The map must have the dtype of the block's own indices. Otherwise TVM casts them, and does not see that the map is
    affine.
    """
    from tvm.tirx import IndexMap

    return IndexMap.from_func(function, ndim=count, index_dtype=dtype)


def build_program(module: IRModule, form: Form, decisions: Decisions, dot: DotProduct | None = None) -> Schedule:
    """The program that a config decides on, scheduled.

    Args:
        module: holds the function.
        form: of the contraction in it.
        decisions: of the config.
        dot: the instruction that multiplies quads of bytes or pairs of int16; None: there are none of either, or no
            instruction.
    """
    from tvm.s_tir import Schedule

    schedule, block, writer, pad, joins = prepare(module, form)
    if joins:
        schedule.set_scope(block, 0, "local")
    axes = [a for a in form.iterators if not (form.fused and a == "h")]
    grouped = form.together > 1
    loops: dict[str, LoopRV] = dict(zip(axes, schedule.get_loops(block), strict=not grouped))
    quad = schedule.get_loops(block)[-1:] if grouped else []
    lanes = [loops.pop("l"), *quad]
    if dot is not None:
        # One block for each use of the instruction. Its conditions, if tiles stick out, stay outside of it.
        schedule.reorder(*loops.values(), *lanes)
        block = schedule.blockize(lanes[0])
        lanes = []
    o0, o1, o2 = schedule.split(loops["o"], factors=list(decisions.o))
    tail = math.prod(decisions.w) != form.extents["w"]
    tiles, w2 = schedule.split(loops["w"], factors=[None, decisions.w[-1]])
    inner = []
    if form.rows:
        h0, h1 = schedule.split(loops["h"], factors=list(decisions.h))
        w0, inner = tiles, [h1]
    else:
        h0, w0 = schedule.split(tiles, factors=list(decisions.w[:2]))
    r0, *r1 = schedule.split(loops["ri"], factors=[None, decisions.unroll]) if "ri" in loops else (None,)
    lead = [loops[a] for a in ("n", "g") if a in loops]
    outer = [*lead, *((o0, o1, h0, w0)[i] for i in decisions.outer)]
    reduction = [(loops.get("rc"), loops.get("kh"), loops.get("kw"), r0)[i] for i in decisions.reduction]
    reduction = [loop for loop in reduction if loop is not None]
    registers = [*inner, w2, o2]
    schedule.reorder(*outer, *reduction, *r1, *registers, *lanes)
    if joins:
        _write_tile(schedule, writer, outer, form.extents["l"])
    else:
        _alone(schedule, writer, decisions.parallel > 0, None)
    if tail:
        # The tiles that stick out get their own copy of the program, in which all extents are constants.
        schedule.annotate(w0, "pragma_loop_partition_hint", 1)
    for loop in lanes[:1]:
        schedule.vectorize(loop)
    for loop in lanes[1:]:
        schedule.unroll(loop)
    for loop in [*registers, *(r1 if decisions.unroll > 1 else [])]:
        schedule.unroll(loop)
    for axis in ("kw", "kh")[: decisions.unroll_kernel]:
        if axis in loops:
            schedule.unroll(loops[axis])
    depth = decisions.parallel - 1 + len(lead)
    _run_parallel(schedule, outer[:depth] if decisions.parallel > 0 else [], pad, decisions.pad)
    begin = schedule.decompose_reduction(block, reduction[0])
    if dot is None:
        _fetch(schedule, form, decisions, reduction, joins)
        return schedule
    schedule.vectorize(schedule.get_loops(schedule.get_child_blocks(begin)[0])[-1])
    return Schedule(dot.put_into(schedule.mod, schedule.get(block).name_hint))


def _fetch(schedule: Schedule, form: Form, decisions: Decisions, reduction: Sequence[LoopRV], joins: bool) -> None:
    """Mark the loops of the ``reduction`` in which lines are prefetched."""
    if decisions.ahead and joins:
        schedule.annotate(reduction[-1], AHEAD, 1)
    steps = find_steps(form, decisions)
    if steps is not None:
        # Once for each block of inputs, if the loop over its inputs is the innermost one.
        schedule.annotate(reduction[-2 if steps.inputs > decisions.unroll else -1], STEPS, steps.encode())


def _run_parallel(schedule: Schedule, outer: Sequence[LoopRV], pad: SBlockRV | None, where: int) -> None:
    """Make one parallel loop of the ``outer`` loops, if there are any, and schedule the padding beside it or inside."""
    fused = None
    if outer:
        fused = schedule.fuse(*outer) if len(outer) > 1 else outer[0]
    if pad is not None:
        _pad(schedule, pad, fused, where)
    if fused is not None:
        schedule.parallel(fused)


def _write_tile(schedule: Schedule, writer: SBlockRV, outer: Sequence[LoopRV], lanes: int) -> None:
    """Let the tile write the result, and the second one where there is one."""
    schedule.reverse_compute_at(writer, outer[-1])
    _write_out(schedule, writer, len(outer), lanes)
    for second in schedule.get_consumers(writer):
        schedule.reverse_compute_at(second, outer[-1], preserve_unit_loops=True)
        schedule.split(schedule.get_loops(second)[-1], factors=[None, lanes])
        _write_out(schedule, second, len(outer), lanes)


def _write_out(schedule: Schedule, writer: SBlockRV, depth: int, lanes: int) -> None:
    """Write out the writer's loops inside the tile as straight vector code."""
    loops = schedule.get_loops(writer)[depth:]
    if loops and lanes > 1:
        schedule.vectorize(loops.pop())
    for loop in loops:
        schedule.unroll(loop)


def _pad(schedule: Schedule, pad: SBlockRV, fused: LoopRV | None, where: int) -> None:
    if where == PAD_INSIDE and fused is not None:
        schedule.compute_at(pad, fused)
        _vectorize(schedule, schedule.get_loops(pad)[-1])
    else:
        _alone(schedule, pad, where == PAD_PARALLEL and fused is not None, schedule.get_loops(pad)[-1])


def _vectorize(schedule: Schedule, loop: LoopRV) -> None:
    """Vectorize a loop by at most 16 elements. One vector of all channels of a pixel would make a long program."""
    extent = int(schedule.get(loop).extent)
    lanes = next(d for d in range(min(extent, _LONGEST_VECTOR), 0, -1) if extent % d == 0)
    schedule.vectorize(loop if lanes == extent else schedule.split(loop, factors=[None, lanes])[1])


def _alone(schedule: Schedule, block: SBlockRV, parallel: bool, lane: LoopRV | None) -> None:
    """Schedule a block with loops of its own. All but the two innermost are parallel, so that columns stay together."""
    loops = schedule.get_loops(block)
    if lane is not None and len(loops) > 1:
        _vectorize(schedule, lane)
    if parallel and len(loops) > 1:
        outer = loops[: max(1, len(loops) - 2)]
        schedule.parallel(schedule.fuse(*outer) if len(outer) > 1 else outer[0])
