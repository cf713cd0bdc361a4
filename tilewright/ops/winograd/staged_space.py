"""The design space of Winograd's transforms: straight vector code for a tile, in loops over tiles and channels.

for n, channel blocks, rows of tiles, tiles, the outermost of them in parallel:
    unrolled, vectorised over lanes:  rows[u, s] = 1-D transforms of the tile's columns
    unrolled, vectorised over lanes:  1-D transforms of those rows, then what consumes them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.winograd.expression import DATA, INVERSE, KIND, PAD, ROWS
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import LoopRV, SBlockRV

__all__ = ["WinogradTransformSpace", "WinogradTransformTemplate", "keep_stages", "straight"]

#: Orders of the loops (n, channel blocks, rows of tiles, tiles).
_ORDERS = ((0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 3, 1))
_CHANNELS_FIRST, _CHANNELS_MIDDLE, _CHANNELS_LAST = range(3)
#: Where the data are padded: in a loop of its own, for each row of tiles, or for each tile.
_PAD_WHOLE, _PAD_ROW, _PAD_TILE = range(3)
#: Iterations of the innermost loop that are written out.
_TOGETHER = (1, 2)


@dataclass(frozen=True)
class _Form:
    """The form of a transform.

    Attributes:
        inverse: whether it is the inverse transform.
        extents: images, channel blocks, rows of tiles, tiles of a row.
        a: rows of a tile on the side of the products.
        padded: whether it pads the data.
    """

    inverse: bool
    extents: tuple[int, int, int, int]
    a: int
    padded: bool


def _analyse(task: Task) -> tuple[IRModule, _Form]:
    """The task's function and its form."""
    module = task_module(task)
    with form_errors(f"{task.name!r} is no transform of Winograd's"):
        form = _read(module)
        # If TVM can make this program, it can make all of them.
        _program(module, form, _Decisions(_ORDERS[_CHANNELS_FIRST], 2, 1, _PAD_ROW if form.padded else _PAD_WHOLE))
    return module, form


_read_transform = FormReader(_analyse)


class WinogradTransformSpace(KnobsAlone):
    """The programs of one transform.

    Attributes:
        task: the task that is scheduled.
        target: the machine it is scheduled for.
        template: ``winograd_transform/1``.
        knobs: ``order`` of the loops; ``parallel``, the number of outermost loops that make the parallel one;
            ``together``, iterations of the innermost loop that are written out; ``pad``.
        has_loop_nest: false.
    """

    template = "winograd_transform/1"

    def __init__(self, task: Task, target: Target) -> None:
        """Make the knobs.

        Raises:
            FormError: the function is no such transform.
            SpaceError: the function cannot be read.
        """
        self.task, self.target = task, target
        self._module, self._form = _read_transform(task)
        self.knobs: tuple[Knob, ...] = (
            ChoiceKnob.of("order", range(len(_ORDERS))),
            ChoiceKnob.of("parallel", range(5)),
            ChoiceKnob.of("together", _TOGETHER),
            ChoiceKnob.of("pad", [_PAD_WHOLE, _PAD_ROW, _PAD_TILE] if self._form.padded else [_PAD_WHOLE]),
        )

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs have a last parallel loop with iterations, and split evenly. ``(n,)``."""
        order, parallel, together, pad = (configs[:, i] for i in range(4))
        extents = np.asarray(self._form.extents)[np.asarray(_ORDERS)[order]]
        last = np.take_along_axis(extents, np.maximum(parallel - 1, 0)[:, None], axis=1)[:, 0]
        ok: NDArray[np.bool_] = (parallel == 0) | (last > 1)
        ok &= extents[:, 3] % np.asarray(_TOGETHER)[together] == 0
        # The innermost loop is split if several of its iterations are written out. Then it is not parallel.
        ok &= (together == 0) | (parallel < 4)
        # A row of tiles is padded inside the loop over rows. The body of that loop must be all of the row.
        ok &= (pad != _PAD_ROW) | ((order != _CHANNELS_LAST) & (parallel < 4))
        ok &= (pad != _PAD_TILE) | (together == 0)
        return ok

    def default(self) -> NDArray[np.int32]:
        """Channel blocks in parallel; if those are few, rows of tiles, too. ``(knobs,)``."""
        images, channels, rows, _ = self._form.extents
        # Whole images were up to 1.3 times as fast as rows of tiles: the tiles of a product are written one by one.
        if images * channels >= 4 * self.target.cores or rows == 1:
            depth = 2 if channels > 1 else 1 if images > 1 else 0
        else:
            depth = 3
        pad = _PAD_ROW if self._form.padded else _PAD_WHOLE
        return np.asarray([_CHANNELS_FIRST, depth, 0, pad], dtype=np.int32)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        order, parallel, together, pad = (choice[0] for choice in choices_of(self, config))
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            return _program(self._module, self._form, _Decisions(_ORDERS[order], parallel, together, pad))


def _read(module: IRModule) -> _Form:
    from tvm.s_tir import Schedule

    schedule = Schedule(module)
    names = [str(schedule.get(b).name_hint) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    if ROWS not in names or not {DATA, INVERSE} & set(names):
        raise FormError(
            f"a transform has a block {ROWS!r} and one of {(DATA, INVERSE)}, but the blocks here are {names}"
        )
    rows = [int(v.dom.extent) for v in schedule.get(schedule.get_sblock(ROWS)).iter_vars]
    n, channels, down, across, *sides, _ = rows
    return _Form(INVERSE in names, (n, channels, down, across), max(sides), PAD in names)


@dataclass(frozen=True)
class _Decisions:
    """What a config decides: the order of the loops (n, channel blocks, rows of tiles, tiles), and other knobs."""

    order: tuple[int, ...]
    parallel: int
    together: int
    pad: int


def _program(module: IRModule, form: _Form, decisions: _Decisions) -> Schedule:
    """The scheduled transform."""
    return _inverse(module, form, decisions) if form.inverse else _data(module, form, decisions)


def _data(module: IRModule, form: _Form, decisions: _Decisions) -> Schedule:
    from tvm.s_tir import Schedule
    from tvm.tirx import IndexMap

    schedule = Schedule(module, seed=1)
    block, rows = schedule.get_sblock(DATA), schedule.get_sblock(ROWS)
    _, _, down, across = form.extents
    a = form.a

    def tiles(xi: Expr, c: Expr, p: Expr, v: Expr) -> tuple[Expr, ...]:
        return p // (down * across), c, p // across % down, p % across, xi // a, xi % a, v

    schedule.transform_block_layout(block, IndexMap.from_func(tiles, ndim=4, index_dtype="int64"))
    n, c, i, j, u, s, v = schedule.get_loops(block)
    outer = _outer(schedule, [n, c, i, j], decisions)
    schedule.compute_at(rows, outer[-1], preserve_unit_loops=True)
    schedule.set_scope(rows, 0, "local")
    if form.padded:
        _pad(schedule, schedule.get_sblock(PAD), outer, decisions)
    straight(schedule, rows, swap=True)
    for loop in (u, s):
        schedule.unroll(loop)
    schedule.vectorize(v)
    _parallel(schedule, outer, decisions)
    return schedule


def _inverse(module: IRModule, form: _Form, decisions: _Decisions) -> Schedule:
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    writer = keep_stages(schedule, (ROWS, INVERSE))
    block, rows = schedule.get_sblock(INVERSE), schedule.get_sblock(ROWS)
    _, _, down, across = form.extents
    n, c, i, j, v = schedule.get_loops(block)
    i, u = schedule.split(i, factors=[down, None])
    j, s = schedule.split(j, factors=[across, None])
    schedule.reorder(n, c, i, j, u, s, v)
    outer = _outer(schedule, [n, c, i, j], decisions)
    schedule.compute_at(rows, outer[-1], preserve_unit_loops=True)
    schedule.reverse_compute_at(writer, outer[-1], preserve_unit_loops=True)
    schedule.set_scope(rows, 0, "local")
    schedule.set_scope(block, 0, "local")
    straight(schedule, rows, swap=True)
    straight(schedule, writer, swap=False)
    for loop in (u, s):
        schedule.unroll(loop)
    schedule.vectorize(v)
    _parallel(schedule, outer, decisions)
    return schedule


def keep_stages(schedule: Schedule, stages: Sequence[str]) -> SBlockRV:
    """Inline all blocks except ``stages`` and the one that writes the result. Returns the latter.

    Raises:
        FormError: there are several results.
    """
    names = [str(schedule.get(b).name_hint) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    writers = [name for name in names if not schedule.get_consumers(schedule.get_sblock(name))]
    if len(writers) != 1:
        raise FormError(f"a function of Winograd's algorithm has one result, but here are {len(writers)}")
    for name in names:
        if name not in (*stages, writers[0]):
            schedule.compute_inline(schedule.get_sblock(name))
    return schedule.get_sblock(writers[0])


def _outer(schedule: Schedule, loops: list[LoopRV], decisions: _Decisions) -> list[LoopRV]:
    """Order the outer loops. Split the innermost one if several of its iterations are written out."""
    outer = [loops[position] for position in decisions.order]
    schedule.reorder(*outer)
    if decisions.together > 1:
        outer[3:] = schedule.split(outer[3], factors=[None, decisions.together])
    return outer


def _parallel(schedule: Schedule, outer: list[LoopRV], decisions: _Decisions) -> None:
    if decisions.together > 1:
        schedule.unroll(outer[4])
    if decisions.parallel:
        schedule.parallel(schedule.fuse(*outer[: decisions.parallel]) if decisions.parallel > 1 else outer[0])


def straight(schedule: Schedule, block: SBlockRV, swap: bool) -> None:
    """Write out a block's two loops over a tile as vector code over its lanes; with ``swap``, column by column."""
    *_, u, s, v = schedule.get_loops(block)
    if swap:
        schedule.reorder(s, u)
    for loop in (u, s):
        schedule.unroll(loop)
    schedule.vectorize(v)


def _pad(schedule: Schedule, pad: SBlockRV, outer: list[LoopRV], decisions: _Decisions) -> None:
    if decisions.pad == _PAD_WHOLE:
        n, c, i, _, v = schedule.get_loops(pad)
        if decisions.parallel:
            schedule.parallel(schedule.fuse(n, c, i))
    else:
        schedule.compute_at(pad, outer[2 if decisions.pad == _PAD_ROW else -1], preserve_unit_loops=True)
        *_, u, s, v = schedule.get_loops(pad)
        if decisions.pad == _PAD_TILE:
            schedule.set_scope(pad, 0, "local")
            for loop in (u, s):
                schedule.unroll(loop)
    schedule.vectorize(v)


class WinogradTransformTemplate:
    """Schedules the transforms of Winograd's algorithm, and what is fused into the inverse one."""

    name = "winograd_transform"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is one of the transforms."""
        return task.kind == self.kind and _read_transform.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return WinogradTransformSpace(task, target)
