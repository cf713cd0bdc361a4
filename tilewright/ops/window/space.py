"""The design space of functions that slide a window: pooling, and means over an image, in a blocked layout.

parallel for n·c·h: for wo: for c8o:
    for kh, kw: for wi: vectorised for c8i: Y[...] = max(Y[...], X[...])

If the window's steps are written out, the results of a tile stay in registers. Element-wise steps that follow, as in a
mean, are done tile by tile. Padding never copies the whole input. It is tested where an input is read, or made for the
rows that one iteration of the outer loop reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.mark import UNMARKED
from tilewright.ops.window.places import LARGEST
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, divisors
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.loops import REDUCTION, SPATIAL, count_iterations, lanes_in
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.space import DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.s_tir import SBlock, Schedule
    from tvm.s_tir.schedule import LoopRV

__all__ = ["WindowSpace", "WindowTemplate"]

#: Innermost iterations (about 2 µs) below which waking other threads costs more than it saves.
_PARALLEL_WORK = 1 << 15
#: Results side by side in the widest tile.
_WIDEST = 16
#: Most steps that are written out.
_MOST_UNROLLED = 64
#: Choices for the rows of an image for which the largest pixels of windows are found together. If a window reaches into
#: two such groups of rows, its largest pixel is found twice.
_ROWS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class _Form:
    """A function over windows.

    Attributes:
        module: holds it.
        shape: of its result.
        padded: whether a block comes before the one that reduces.
        seeks: whether that block finds the largest pixel of each window.
    """

    module: IRModule
    shape: list[int]
    padded: bool
    seeks: bool


def _analyse(task: Task) -> _Form:
    module = task_module(task)
    with form_errors(f"{task.name!r} has not the form of a function over windows"):
        form = _read(module)
        # If TVM can make this program, which has every step, it can make all of them.
        _program(module, _Decisions(parallel=True, pad=form.seeks, tile=1, vector=form.shape[-1], unroll=True, rows=1))
    return form


_read_window = FormReader(_analyse)


class WindowSpace(KnobsAlone):
    """The programs of one function over windows.

    Attributes:
        task: the task that is scheduled.
        target: the machine it is scheduled for.
        template: ``window/1``.
        knobs: ``parallel``: whether rows run in parallel; ``pad``: 0 tests for padding as an input is read, 1 pads the
            rows before; ``tile``: results side by side in registers; ``vector``: elements of a vector; ``unroll``:
            whether the window's steps are written out. If the function finds the largest pixels of windows, also
            ``rows``: for how many rows of the image it does so together.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function has not the form that the template knows, or no vectors.
        SpaceError: the function cannot be read.
    """

    template = "window/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._form = form = _read_window(task)
        shape = form.shape
        vectors = _vectors(shape[-1], target.lanes)
        if not vectors:
            raise FormError(f"the last dimension of {task.name!r} is {shape[-1]}, of which no vector can be made")
        self.knobs: tuple[Knob, ...] = (
            ChoiceKnob.of("parallel", [0, 1]),
            ChoiceKnob.of("pad", [1] if form.seeks else [0, 1] if form.padded else [0]),
            ChoiceKnob.of("tile", [d for d in divisors(shape[-2]) if d <= _WIDEST]),
            ChoiceKnob.of("vector", vectors),
            ChoiceKnob.of("unroll", [0, 1]),
        )
        if form.seeks:
            self.knobs += (ChoiceKnob.of("rows", [d for d in _ROWS if shape[-3] % d == 0]),)

    def default(self) -> NDArray[np.int32]:
        """Rows in parallel if there is enough work; padding is tested as an input is read.

        Vectors are the longest that fit a register, and tiles have at most 4 results. If no vector fits, it is the
        shortest one, and tiles have one result: LLVM takes such vectors to pieces, which took 2 to 4 times as long.
        """
        tiles, vectors = ([choice[0] for choice in self.knobs[place].choices] for place in (2, 3))
        fitting = sum(lanes <= self.target.lanes for lanes in vectors)
        tile = sum(width <= 4 for width in tiles) - 1 if fitting else 0
        config = [self._work >= _PARALLEL_WORK, 0, tile, max(fitting - 1, 0), 1]
        return np.asarray(config + [len(knob) - 1 for knob in self.knobs[5:]], dtype=np.int32)

    @cached_property
    def _work(self) -> int:
        return count_iterations(self._form.module)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        parallel, pad, tile, vector, unroll, *rows = (choice[0] for choice in choices_of(self, config))
        decisions = _Decisions(bool(parallel), bool(pad), tile, vector, bool(unroll), rows[0] if rows else 1)
        with space_errors(f"{self.task.name!r} cannot be scheduled by windows"):
            return _program(self._form.module, decisions)


def _vectors(extent: int, lanes: int) -> list[int]:
    """The lengths of vectors that divide the last dimension: the longest in one and in two registers, else in four."""
    for most in ((1, 2), (4,)):
        found = {lanes_in(extent, times * lanes) for times in most} - {1}
        if found:
            break
    return sorted(found)


def _blocks(schedule: Schedule) -> tuple[list[str], str, list[str], str]:
    """The names of the blocks before the one that reduces, of that one, of those after it, and of the result's."""
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    names = [str(schedule.get(block).name_hint) for block in blocks]
    kinds = [{int(v.iter_type) for v in schedule.get(block).iter_vars} for block in blocks]
    reducing = [i for i, found in enumerate(kinds) if REDUCTION in found]
    if len(reducing) != 1 or any(not found <= {SPATIAL, REDUCTION} for found in kinds):
        raise FormError("a function over windows has one block that reduces")
    if any(schedule.get_consumers(block) for block in blocks[-1:]):
        raise FormError("the last block of a function over windows is its result")
    if any(len(schedule.get_consumers(block)) != 1 for block in blocks[:-1]):
        raise FormError("the blocks of a function over windows are a chain")
    at = reducing[0]
    return names[:at], names[at], names[at + 1 : -1], names[-1]


def _read(module: IRModule) -> _Form:
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    before, window, _, result = _blocks(schedule)
    stmt = schedule.get(schedule.get_sblock(result))
    shape = [int(v.dom.extent) for v in stmt.iter_vars if int(v.iter_type) == SPATIAL]
    if len(shape) < 3:
        raise FormError("a function over windows has rows, columns and lanes")
    reduced = [
        int(v.dom.extent) for v in schedule.get(schedule.get_sblock(window)).iter_vars if int(v.iter_type) == SPATIAL
    ]
    if math.prod(reduced) != math.prod(shape):
        raise FormError("a function over windows has a result for each window, where a mean may be spread again")
    seeks = before == [*LARGEST]
    if not _in_lanes(schedule.get(schedule.get_sblock(window)), 2 if seeks else 1):
        raise FormError("a function over windows reads one tensor, and its last dimension side by side")
    return _Form(module, shape, bool(before), seeks)


def _in_lanes(block: SBlock, tensors: int) -> bool:
    """Whether results side by side are made of elements side by side of so many tensors."""
    from tvm.sym import detect_linear_equation

    if len(block.reads) != tensors or len(block.writes) != 1:
        return False
    lane = [v.var for v in block.iter_vars if int(v.iter_type) == SPATIAL][-1]
    for region in block.reads:
        *others, last = [dim.min for dim in region.region]
        found = [detect_linear_equation(index, [lane]) for index in (*others, last)]
        if any(len(pair) != 2 for pair in found) or [int(pair[0]) for pair in found] != [0] * len(others) + [1]:
            return False
    return True


@dataclass(frozen=True)
class _Decisions:
    """What a config decides: the knobs of :class:`WindowSpace`."""

    parallel: bool
    pad: bool
    tile: int
    vector: int
    unroll: bool
    rows: int


def _program(module: IRModule, decisions: _Decisions) -> Schedule:
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    before, window, between, result = _blocks(schedule)
    kept = [] if not decisions.pad else before if before == [*LARGEST] else before[-1:]
    for name in [*(name for name in before if name not in kept), *between]:
        schedule.compute_inline(schedule.get_sblock(name))
    rows, steps = _by_tiles(schedule, window, result, decisions)
    for name in reversed(kept):
        schedule.compute_at(schedule.get_sblock(name), rows, preserve_unit_loops=True)
        padding = schedule.get_sblock(name)
        around = schedule.get_loops(padding)[-1]
        lanes = lanes_in(schedule.get(around).extent, decisions.vector)
        if lanes > 1:
            schedule.vectorize(schedule.split(around, factors=[None, lanes])[1])
    if decisions.parallel:
        schedule.parallel(rows)
    schedule.decompose_reduction(schedule.get_sblock(window), steps)  # last: two blocks then write the same
    return schedule


def _by_tiles(schedule: Schedule, window: str, result: str, decisions: _Decisions) -> tuple[LoopRV, LoopRV]:
    """Reduce by tiles, and do the steps that follow tile by tile.

    The block keeps its sums in its own buffer. TVM would allocate a buffer of the tile anew for each parallel
    iteration, which halves the speed.

    Returns:
        The outer loop, and the outermost loop of a window's steps.
    """
    block = schedule.get_sblock(window)
    loops = schedule.get_loops(block)
    reduced = [int(v.iter_type) == REDUCTION for v in schedule.get(block).iter_vars]
    steps = [loop for loop, is_step in zip(loops, reduced, strict=True) if is_step]
    *outer, columns, last = [loop for loop, is_step in zip(loops, reduced, strict=True) if not is_step]
    column, inside = schedule.split(columns, factors=[None, decisions.tile])
    rest, lane = schedule.split(last, factors=[None, decisions.vector])
    together = []
    if decisions.rows > 1:
        outer[-1:] = schedule.split(outer[-1], factors=[None, decisions.rows])
        together = [outer.pop()]
    rows = schedule.fuse(*outer) if len(outer) > 1 else outer[0]
    schedule.reorder(rows, *together, column, rest, *steps, inside, lane)
    schedule.vectorize(lane)
    if window != result:
        schedule.reverse_compute_at(schedule.get_sblock(result), rest, preserve_unit_loops=True)
        schedule.vectorize(schedule.get_loops(schedule.get_sblock(result))[-1])
    if decisions.unroll:
        written_out = 1
        for loop in (inside, *reversed(steps)):
            written_out *= int(schedule.get(loop).extent)
            if written_out > _MOST_UNROLLED:
                break
            schedule.unroll(loop)
    return rows, steps[0]


class WindowTemplate:
    """Schedules pooling, means over an image, and what is fused into them."""

    name = "window"
    kind = UNMARKED.kind

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function slides a window, and its last dimension makes whole vectors of the target."""
        if task.kind != self.kind or not _read_window.fits(task):
            return False
        return bool(_vectors(_read_window(task).shape[-1], target.lanes))

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return WindowSpace(task, target)
