"""A plain schedule for any function: the outer loops of each block run in parallel, the innermost is vectorised.

for n, c, h, w, kh, kw: Y[n, c, h, w] += X[n, c, h + kh, w + kw] * W[c, kh, kw]
-->
parallel for n·c·h:
    for wo: vectorised for wi: Y[...] = 0
    for wo: for kh, kw: vectorised for wi: Y[...] += X[...] * W[...]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tilewright.space.inlining import MOST_LOADS, count_loads, multiplies, nested_loads
from tilewright.space.loops import REDUCTION, SHORTEST_VECTOR, SPATIAL, lanes_in

if TYPE_CHECKING:
    from tvm.ir import Call, Expr, IRModule, TensorRegion, Var
    from tvm.s_tir import SBlock, SBlockRealize, Schedule
    from tvm.s_tir.schedule import LoopRV, SBlockRV
    from tvm.tirx import IterVar, Select

__all__ = ["MOVING_WORK", "moves_elements", "simple_schedule", "stages_and_reductions"]

#: Moved elements below which MetaSchedule's program is slower: it always shares them with other threads.
MOVING_WORK = 1 << 12


def simple_schedule(module: IRModule, inline: bool, parallel: bool, vector: int, unroll: int, join: bool) -> Schedule:
    """Schedule every block of ``module`` on its own.

    A step may not apply to a block that is opaque, depends on data, or shares a loop with others. Then the block keeps
    its loops.

    Args:
        module: the function, called ``main``.
        inline: compute element-wise producers where they are used, if the function stays small enough to compile.
        parallel: spread the outer spatial loops over the threads.
        vector: elements of the longest vector; 1 leaves vectorising to LLVM.
        unroll: most iterations of a reduction that are written out, which keeps its sums in registers.
        join: compute the element-wise consumer of a reduction inside the reduction's parallel loop.
    """
    from tvm.s_tir import Schedule, ScheduleError

    schedule = Schedule(module, seed=1)
    root = schedule.get_sblock("root")
    if inline:
        small = nested_loads(module) <= MOST_LOADS
        for block in schedule.get_child_blocks(root):
            if _inlinable(schedule, block) and (small or _stays_small(schedule, block)):
                try:
                    schedule.compute_inline(block)
                except ScheduleError:
                    continue
    joined: list[str] = []
    for block in schedule.get_child_blocks(root):
        if schedule.get(block).name_hint in joined:
            continue
        try:
            fused = _schedule_block(schedule, block, parallel, vector, unroll)
            if join and fused is not None:
                joined += _join(schedule, block, fused, vector)
        except ScheduleError:
            continue
    return schedule


def stages_and_reductions(module: IRModule) -> tuple[int, bool]:
    """How many stages the function has, and whether one of them reduces. If not, some knobs are idle."""
    from tvm.s_tir import Schedule

    schedule = Schedule(module)
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    return len(blocks), any(v.iter_type != SPATIAL for block in blocks for v in schedule.get(block).iter_vars)


def moves_elements(module: IRModule) -> bool:
    """Whether the function only moves elements to other places.

    The innermost loop over the result then does not read a stretch of memory, so the plain schedule is slow.
    """
    from tvm.s_tir import Schedule

    schedule = Schedule(module)
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    if len(blocks) != 1:
        return False
    stmt = schedule.get(blocks[0])
    extents = [getattr(v.dom.extent, "value", v.dom.extent) for v in stmt.iter_vars]
    return (
        {v.iter_type for v in stmt.iter_vars} == {SPATIAL}
        and isinstance(extents[-1], int)
        and extents[-1] >= SHORTEST_VECTOR
        and not _elementwise(stmt)
    )


def _inlinable(schedule: Schedule, block: SBlockRV) -> bool:
    """Whether inlining repeats no work: all consumers are spatial, and no larger than the block itself.

    A padding or an exponential that is inlined into a reduction would be computed again for every use.
    """
    consumers = schedule.get_consumers(block)
    size = _size(schedule, block)
    return bool(consumers) and all(
        {v.iter_type for v in schedule.get(c).iter_vars} <= {SPATIAL} and _size(schedule, c) <= size for c in consumers
    )


def _stays_small(schedule: Schedule, block: SBlockRV) -> bool:
    """Whether each reader of the block would load at most ``MOST_LOADS`` times if the block were inlined into it."""
    (written,) = (region.source for region in schedule.get(block).writes)
    inlined = sum(count_loads(schedule.get(block)).values())
    readers = [count_loads(schedule.get(consumer)) for consumer in schedule.get_consumers(block)]
    return all(
        not multiplies(loads[written], inlined) or sum(loads.values()) + loads[written] * (inlined - 1) <= MOST_LOADS
        for loads in readers
    )


def _size(schedule: Schedule, block: SBlockRV, kind: int | None = None) -> int:
    """Iterations of all variables of the block, or of those of one kind."""
    return math.prod(int(v.dom.extent) for v in schedule.get(block).iter_vars if kind in (None, v.iter_type))


def _schedule_block(schedule: Schedule, block: SBlockRV, parallel: bool, vector: int, unroll: int) -> LoopRV | None:
    """Schedule one block. Returns the outer loop of a reduction, and None for other blocks."""
    stmt = schedule.get(block)
    loops = list(schedule.get_loops(block))
    variables = _loop_variables(schedule, block, loops)
    if variables is None:
        return None
    spatial = [loop for loop, var in zip(loops, variables, strict=True) if var is None or var.iter_type == SPATIAL]
    reduction = [loop for loop in loops if loop not in spatial]
    if not spatial:
        return None
    last = variables[loops.index(spatial[-1])]
    if not reduction and _elementwise(stmt):
        spatial = [schedule.fuse(*spatial)] if len(spatial) > 1 else spatial  # one stretch of memory
        contiguous = True
    else:
        contiguous = last is not None and _contiguous_along(stmt, last.var, bool(reduction))
    outer, inner = spatial[:-1], spatial[-1:]
    lanes = lanes_in(schedule.get(inner[0]).extent, vector) if contiguous else 1
    lane_loop = None
    if lanes > 1:
        body, lane_loop = schedule.split(inner[0], factors=[None, lanes])
        inner = [body]
    if not outer:
        outer, inner = inner, []
    if reduction:
        schedule.reorder(*outer, *inner, *reduction, *([] if lane_loop is None else [lane_loop]))
    fused = schedule.fuse(*outer) if len(outer) > 1 else outer[0]
    if parallel and not _is_one(schedule.get(fused).extent):
        schedule.parallel(fused)
    if lane_loop is not None:
        schedule.vectorize(lane_loop)
    if not reduction:
        return None
    written = 1
    for loop in reversed(reduction):
        extent = getattr(schedule.get(loop).extent, "value", None)
        if extent is None or written * extent > unroll:
            break
        written *= extent
        schedule.unroll(loop)
    # Otherwise the innermost loop would test whether its iteration is the first.
    init = schedule.decompose_reduction(block, reduction[0])
    if lane_loop is not None:
        schedule.vectorize(schedule.get_loops(init)[-1])
    return fused


def _join(schedule: Schedule, block: SBlockRV, fused: LoopRV, vector: int) -> list[str]:
    """Move the only consumer of a scheduled reduction, if element-wise, into the loop ``fused``. Returns its name."""
    consumers = schedule.get_consumers(block)
    if len(consumers) != 1:
        return []
    consumer = consumers[0]
    stmt = schedule.get(consumer)
    if {v.iter_type for v in stmt.iter_vars} != {SPATIAL} or _size(schedule, consumer) != _size(
        schedule, block, SPATIAL
    ):
        return []
    contiguous = _contiguous_along(stmt, stmt.iter_vars[-1].var, False)
    schedule.reverse_compute_at(consumer, fused)
    innermost = schedule.get_loops(consumer)[-1]
    lanes = lanes_in(schedule.get(innermost).extent, vector) if contiguous else 1
    if lanes > 1 and not innermost.same_as(fused):
        schedule.vectorize(schedule.split(innermost, factors=[None, lanes])[1])
    return [stmt.name_hint]


def _loop_variables(schedule: Schedule, block: SBlockRV, loops: list[LoopRV]) -> list[IterVar | None] | None:
    """For each loop around ``block`` the iteration variable that is bound to it, or None for a loop of extent 1.

    The result is None if loops and variables do not pair up, or a variable is neither spatial nor a reduction.
    """
    realize = _realize(schedule, block, loops)
    if realize is None:
        return None
    pairs = list(zip(realize.iter_values, schedule.get(block).iter_vars, strict=True))
    found: list[IterVar | None] = []
    for loop in loops:
        node = schedule.get(loop)
        var = next((v for value, v in pairs if node.loop_var.same_as(value)), None)
        fits = _is_one(node.extent) if var is None else var.iter_type in (SPATIAL, REDUCTION)
        if not fits:
            return None
        found.append(var)
    return found


def _realize(schedule: Schedule, block: SBlockRV, loops: list[LoopRV]) -> SBlockRealize | None:
    """The realisation of ``block``, if no other block is in its loops."""
    if not loops:
        return None
    node = schedule.get(loops[0])
    for _ in loops:
        node = node.body
    return node if hasattr(node, "iter_values") and node.block.same_as(schedule.get(block)) else None


def _is_one(extent: object) -> bool:
    return bool(getattr(extent, "value", extent) == 1)


def _elementwise(stmt: SBlock) -> bool:
    """Whether all buffers have the same shape and are accessed at the same place."""
    from tvm_ffi import structural_equal

    (write,) = stmt.writes if len(stmt.writes) == 1 else (None,)
    if write is None:
        return False
    place = [r.min for r in write.region]
    if [getattr(p, "name", None) for p in place] != [v.var.name for v in stmt.iter_vars]:
        return False
    return all(
        structural_equal(list(read.source.ty.shape), list(write.source.ty.shape))
        and structural_equal([r.min for r in read.region], place, map_free_vars=False)
        for read in stmt.reads
    )


def _contiguous_along(stmt: SBlock, var: Var, reduces: bool) -> bool:
    """Whether the block can be vectorised along ``var``: its writes are contiguous, and no condition depends on it.

    The reads of a reduction must also be contiguous, or not depend on ``var``. Its vectorised loop goes inside the
    loops of the reduction, and strided reads would make these slower.
    """
    reads = list(stmt.reads) if reduces else []
    return (
        len(stmt.writes) == 1
        and _contiguous(stmt.writes[0], var)
        and all(_contiguous(r, var) or not _uses(r, var) for r in reads)
        and not _conditional(stmt, var)
    )


def _contiguous(region: TensorRegion, var: Var) -> bool:
    """Whether ``var`` moves along the last dimension of the region alone, in steps of one.

    Pooling with stride 2, vectorised here, took 1.5 to 2 times as long as LLVM's code for the plain loop.
    """
    moves = [_in(r.min, var) for r in region.region]
    return bool(moves) and moves[-1] and not any(moves[:-1]) and not _scaled(region.region[-1].min, var)


def _uses(region: TensorRegion, var: Var) -> bool:
    return any(_in(r.min, var) for r in region.region)


def _in(expr: Expr, var: Var) -> bool:
    from tvm.tirx.analysis import undefined_vars

    return any(v.same_as(var) for v in undefined_vars(expr))


def _scaled(expr: Expr, var: Var) -> bool:
    """Whether ``expr`` multiplies or divides ``var``."""
    from tvm.tirx import FloorDiv, FloorMod, Mul
    from tvm_ffi import structural_walk

    terms: list[Expr] = []
    structural_walk(expr, tuple((kind, terms.append) for kind in (Mul, FloorDiv, FloorMod)))
    return any(_in(term, var) for term in terms)


def _conditional(stmt: SBlock, var: Var) -> bool:
    """Whether a condition depends on ``var``. It would turn the vectorised loop back into a serial one."""
    from tvm.ir import Call
    from tvm.tirx import Select
    from tvm_ffi import structural_walk

    conditions: list[Expr] = []

    def see(node: Select | Call) -> None:
        if isinstance(node, Select):
            conditions.append(node.condition)
        elif getattr(node.op, "name", "").endswith("if_then_else"):
            conditions.append(node.args[0])

    structural_walk(stmt.body, ((Select, see), (Call, see)))
    return any(_in(condition, var) for condition in conditions)
