"""The design space of softmax, layer norm, and element-wise functions that follow them: one row after the other.

parallel for chunk: for row of the chunk:
    for each reduction of the row, by lanes; for each step element by element: vectorised
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.rows.expression import KIND, PREFIX
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, divisors
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.loops import PARALLEL_WORK, count_iterations
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.space import DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import SBlockRV

__all__ = ["RowsSpace", "RowsTemplate"]

#: A divisor of the rows is too far from the wanted number of chunks if it is more than so many times that.
_FAR = 4
#: A function is of the form if TVM can make one program of it. That program is for so many cores, and has vectors of so
#: many elements, the longest of any target, and registers of so many.
_TRIAL_CORES, _TRIAL_VECTOR, _TRIAL_LANES = 2, 64, 16


def _analyse(task: Task) -> tuple[IRModule, int]:
    """The task's function, and how many rows it has."""
    module = task_module(task)
    with form_errors(f"{task.name!r} has not the form of a function over rows"):
        rows = _count_rows(module)
        _program(module, _chunks(rows, _TRIAL_CORES)[-1], _TRIAL_VECTOR, 1, _TRIAL_LANES)
    return module, rows


_read_rows = FormReader(_analyse)


class RowsSpace(KnobsAlone):
    """The programs of one function over rows.

    Attributes:
        task: the task that is scheduled.
        target: the machine it is scheduled for.
        template: ``rows/3``; ``rows/4`` where chunks do not divide the rows. (1 and 2 summed by vectors longer than a
            register.)
        knobs: ``chunks`` of rows that run in parallel; ``vector``, elements of a vector in element-wise steps;
            ``unroll``, iterations of a step that are written out.
        has_loop_nest: false.
    """

    template = "rows/3"

    def __init__(self, task: Task, target: Target) -> None:
        """Make the knobs.

        Args:
            task: the task to schedule.
            target: the machine to schedule it for.

        Raises:
            FormError: the function has not the form that the template knows.
            SpaceError: the function cannot be read.
        """
        self.task, self.target = task, target
        self._module, self._rows = _read_rows(task)
        lanes, chunks = target.lanes, _chunks(self._rows, target.cores)
        if any(self._rows % count for count in chunks):
            self.template = "rows/4"
        self.knobs: tuple[Knob, ...] = (
            ChoiceKnob.of("chunks", chunks),
            ChoiceKnob.of("vector", [lanes, 2 * lanes, 4 * lanes]),
            ChoiceKnob.of("unroll", [1, 4, 16]),
        )

    def default(self) -> NDArray[np.int32]:
        """Longest vectors; in parallel if there is enough work. ``(knobs,)``."""
        parallel = self._work >= PARALLEL_WORK and len(self.knobs[0]) > 1
        return np.asarray([parallel, 2, 0], dtype=np.int32)

    @cached_property
    def _work(self) -> int:
        return count_iterations(self._module)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        chunks, vector, unroll = (choice[0] for choice in choices_of(self, config))
        with space_errors(f"{self.task.name!r} cannot be scheduled by rows"):
            return _program(self._module, chunks, vector, unroll, self.target.lanes)


def _chunks(rows: int, cores: int) -> list[int]:
    """Numbers of chunks that are worth a try: 1, and divisors of the rows near 1, 2 and 4 times the cores.

    A chunk has several rows if possible, since TVM allocates the buffers of a row anew for each parallel iteration. A
    layer norm of 128 rows of 256 took 38 µs with a row as a chunk, and 11 µs on one core. Rows without such a divisor,
    for example 197, are cut into as many chunks as wanted, and the last one is shorter.
    """
    found = {1}
    for wanted in (cores, 2 * cores, 4 * cores):
        nearest = min((d for d in divisors(rows) if d > 1), key=lambda d: (abs(d - wanted), d), default=1)
        found.add(wanted if nearest > _FAR * wanted and rows > _FAR * wanted else nearest)
    return sorted(found)


def _count_rows(module: IRModule) -> int:
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    results = [b for b in blocks if not schedule.get_consumers(b)]
    if len(results) != 1:
        raise FormError(f"a function over rows has one result, but here are {len(results)}")
    return math.prod(int(v.dom.extent) for v in schedule.get(results[0]).iter_vars[:-1])


def _program(module: IRModule, chunks: int, vector: int, unroll: int, lanes: int) -> Schedule:
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    names = [str(schedule.get(b).name_hint) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    results = [name for name in names if not schedule.get_consumers(schedule.get_sblock(name))]
    if len(results) != 1 or not any(name.startswith(PREFIX) for name in names):
        raise FormError("a function over rows has blocks that reduce them, and one result")
    (result,) = results
    for name in names:
        # The element-wise steps after the last reduction become one.
        if name != result and not name.startswith(PREFIX):
            schedule.compute_inline(schedule.get_sblock(name))
    steps = [name for name in names if name.startswith(PREFIX)]
    last = schedule.get_sblock(result)
    loops = schedule.get_loops(last)
    if len(loops) < 2:
        raise FormError("a function over rows has rows and columns")
    fused = schedule.fuse(*loops[:-1]) if len(loops) > 2 else loops[0]
    chunk, rows = schedule.split(fused, factors=[chunks, None])
    for name in reversed(steps):
        schedule.compute_at(schedule.get_sblock(name), rows, preserve_unit_loops=False)
    for name in steps:
        schedule.set_scope(schedule.get_sblock(name), 0, "local")
    for name in [*steps, result]:
        _inside(schedule, schedule.get_sblock(name), vector, unroll, lanes)
    if chunks > 1:
        schedule.parallel(chunk)
    for name in steps:
        block = schedule.get_sblock(name)
        inner = schedule.get_loops(block)[2:]
        if any(int(v.iter_type) == 2 for v in schedule.get(block).iter_vars) and inner:
            init = schedule.decompose_reduction(block, inner[0])
            around = schedule.get_loops(init)[2:]
            if around and int(schedule.get(around[-1]).extent) > 1:
                schedule.vectorize(around[-1])
                for loop in around[:-1]:
                    schedule.unroll(loop)
    return schedule


def _inside(schedule: Schedule, block: SBlockRV, vector: int, unroll: int, lanes: int) -> None:
    """Vectorise and unroll the loops of one step inside the row."""
    stmt = schedule.get(block)
    loops = schedule.get_loops(block)[2:]
    reduced = [int(v.iter_type) == 2 for v in stmt.iter_vars]
    if not loops:
        return
    if any(reduced):
        if len(loops) == 1:  # it reduces the lanes of one vector
            if int(schedule.get(loops[0]).extent) <= 16:
                schedule.unroll(loops[0])
            return
        lane, steps = loops
        # Vectors side by side are registers of their own. LLVM took one long vector apart by integers, which made a
        # layer norm of 197x192 take twice as long.
        width = int(schedule.get(lane).extent)
        side, lane = schedule.split(lane, factors=[None, lanes if width % lanes == 0 else width])
        schedule.reorder(steps, side, lane)
        schedule.vectorize(lane)
        schedule.unroll(side)
        extent = int(schedule.get(steps).extent)
        if extent <= max(unroll, 4):
            schedule.unroll(steps)
        return
    extent = int(schedule.get(loops[-1]).extent)
    lanes = max(d for d in range(1, min(vector, extent) + 1) if extent % d == 0)
    if lanes >= 4:
        outer, lane = schedule.split(loops[-1], factors=[None, lanes])
        schedule.vectorize(lane)
        if unroll > 1 and extent // lanes <= unroll:
            schedule.unroll(outer)


class RowsTemplate:
    """Schedules softmax, layer norm, and what is fused into them."""

    name = "rows"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function works row by row."""
        return task.kind == self.kind and _read_rows.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return RowsSpace(task, target)
