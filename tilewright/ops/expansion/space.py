"""The design space of a 1x1 convolution and the depthwise one that reads its result, in one function.

``ops/expansion/program`` explains the loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.depthwise.space import row_cycles
from tilewright.ops.expansion.form import KIND, Expansion, read_expansion
from tilewright.ops.expansion.program import Nest, ring_rows, write_expansion
from tilewright.ops.written import schedule_statements
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, divisors
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.ranked import RankedSpace
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["ExpansionSpace", "ExpansionTemplate"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Most blocks of a group; most columns of a tile of the depthwise convolution; rows of a pass; parts of the rows.
_BLOCKS, _WIDEST, _ROWS, _PARTS = 4, 16, (1, 2, 4, 8), (1, 2, 3, 4, 6, 8, 14, 28)
#: Input channels that are written out, and most multiply-adds that are written out for a tile.
_UNROLLED, _BODY = (1, 2, 4), 256
#: Most of the map's rows that parts make twice, as a share of the map.
_AGAIN = 0.5
#: Data of at most so much of the second cache are read by all cores without much loss. More are not, if the parts that
#: this needs make at most so much of the map twice.
_SMALL, _FEW_AGAIN = 1 / 16, 1 / 8
#: Cycles: of a register tile besides its sums; of a byte from the second and from the last cache.
_TILE, _L2_BYTE, _L3_BYTE = 16.0, 1 / 32, 1 / 8
#: Multiply-adds (about 10 µs) below which waking other threads costs more than it saves.
_PARALLEL_WORK = 1 << 18


@dataclass(frozen=True)
class _Columns:
    """The meaning of ``n`` configs: the knobs of these names, ``(n,)`` each."""

    blocks: Ints
    tile: Ints
    unroll: Ints
    columns: Ints
    rows: Ints
    parts: Ints
    parallel: Ints


def _analyse(task: Task) -> Expansion:
    with form_errors(f"{task.name!r} is no 1x1 convolution that a depthwise one follows"):
        return read_expansion(task_module(task))


_read = FormReader(_analyse)


class ExpansionSpace(RankedSpace):
    """The programs of a 1x1 convolution and the depthwise one that follows it.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``expansion/1``.
        knobs: ``blocks`` of channels in a group; ``tile``: columns of a register tile of the 1x1 convolution;
            ``unroll``: input channels that are written out; ``columns`` of a register tile of the depthwise
            convolution; ``rows`` of results in a pass; ``parts`` into which the rows are cut, which make the rows twice
            that both read; ``parallel``: whether groups and parts run in parallel.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is none, or one row of its map does not fit the second cache.
        SpaceError: the function cannot be read.
    """

    template = "expansion/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._form = form = _read(task)
        if not _fits(form, target):
            raise FormError(
                f"the kernel's rows of a vector of channels fit the caches of {target.mcpu}, but not those of "
                f"{task.name!r}"
            )
        window = form.depthwise
        _, width = form.pixels
        taps = window.columns.taps
        widest = max(1, min(_WIDEST, window.columns.outputs, target.registers - 2, _BODY // taps))
        self.knobs: tuple[Knob, ...] = (
            ChoiceKnob.of("blocks", [b for b in divisors(window.blocks) if b <= _BLOCKS]),
            ChoiceKnob.of("tile", range(1, min(width, target.registers - 2) + 1)),
            ChoiceKnob.of("unroll", [count for count in _UNROLLED if form.depth % count == 0]),
            ChoiceKnob.of("columns", range(1, widest + 1)),
            ChoiceKnob.of("rows", [rows for rows in _ROWS if rows == 1 or rows <= window.rows.outputs]),
            ChoiceKnob.of("parts", [parts for parts in _PARTS if parts == 1 or parts <= window.rows.outputs]),
            ChoiceKnob.of("parallel", [0, 1]),
        )

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs fit registers and caches, and are the one config of their program. ``(n,)``."""
        form, c = self._form, self._columns(configs)
        registers = self.target.registers
        sums = c.blocks * c.tile
        ok: NDArray[np.bool_] = (sums + c.blocks + 1 <= registers) | (sums == 1)
        ok &= (sums * c.unroll <= _BODY) | (c.unroll == 1)
        ok &= (self._ring_bytes(c) <= self.target.l2 // 2) | ((c.blocks == 1) & (c.rows == 1))
        window = form.depthwise.rows
        passes = -(-window.outputs // c.rows)
        ok &= -(-passes // -(-passes // c.parts)) == c.parts
        ok &= (c.parts == 1) | ((c.parts - 1) * self._shared_rows <= _AGAIN * window.size)
        ok &= (c.parts >= self._least_parts) | (c.parallel == 0)
        ok &= (c.parallel == 0) | (self._chunks(c) > 1)
        return ok

    def _rank(self) -> Configs:
        """Configs by their estimated cycles, fewest first. No two have the same groups, tiles and parts."""
        configs = self._combine([0, 1, 3, 4, 5])
        configs[:, 2] = min(1, len(self.knobs[2]) - 1)
        c = self._columns(configs)
        configs[:, 6] = (self._chunks(c) > 1) & (self._form.work >= _PARALLEL_WORK)
        configs = configs[self.valid(configs)]
        ranked = configs[self._cycles(self._columns(configs)).argsort(kind="stable")]
        _, first = np.unique(ranked[:, [0, 1, 5]], axis=0, return_index=True)
        return np.asarray(ranked[np.sort(first)], dtype=np.int32)

    @cached_property
    def _least_parts(self) -> int:
        """Fewest parts of a parallel program.

        With fewer parts than cores, each core reads rows that others have just written. The measurement of a kernel by
        itself does not show what that costs: 16 channels on 112x112 pixels took 214 us inside of a network instead of
        156 on two cores of Emerald Rapids.
        """
        form, window = self._form, self._form.depthwise
        height, width = form.pixels
        small = 4 * form.inputs * form.depth * height * width <= self.target.l2 * _SMALL
        if small or window.batch >= self.target.cores:
            return 1
        count = window.rows.outputs
        few = [p for p in _PARTS if p <= min(self.target.cores, count) and -(-count // -(-count // p)) == p]
        return max(p for p in few if p == 1 or (p - 1) * self._shared_rows <= _FEW_AGAIN * height)

    @property
    def _shared_rows(self) -> int:
        """Rows of the map that two neighbouring parts both make."""
        window = self._form.depthwise.rows
        return max(0, (window.taps - 1) * window.dilation + 1 - window.stride)

    def _ring_bytes(self, c: _Columns) -> Ints:
        """``(n,)`` bytes of the ring."""
        _, width = self._form.pixels
        window = self._form.depthwise.rows
        rows = np.minimum(window.size, (c.rows - 1) * window.stride + (window.taps - 1) * window.dilation + 1)
        found: Ints = 4 * c.blocks * rows * width * self._form.depthwise.lanes
        return found

    def _chunks(self, c: _Columns) -> Ints:
        """``(n,)`` iterations of the parallel loop."""
        found: Ints = self._form.depthwise.batch * (self._form.depthwise.blocks // c.blocks) * c.parts
        return found

    def _cycles(self, c: _Columns) -> Floats:
        """``(n,)`` estimated cycles of the core with the most to do."""
        form, target = self._form, self.target
        window, (height, width) = form.depthwise, form.pixels
        depth = form.inputs * form.depth
        sums, loads = c.blocks * c.tile, c.blocks + c.tile
        # As for contractions: two multiply-adds and two loads a cycle; four cycles until a sum is ready.
        step = np.maximum(np.maximum(sums, loads) / 2, 4) + 0.05 * loads
        step = np.where(sums > target.registers - 4, 1.1, 1.0) * step
        map_row = np.ceil(width / c.tile) * (depth * step + 3 * sums + _TILE)
        rows = height / c.parts + self._shared_rows * (c.parts > 1)
        widths = np.asarray([row_cycles(window, n, target, False) for n in range(1, len(self.knobs[3]) + 1)])
        used = window.rows.outputs / c.parts * c.blocks * widths[c.columns - 1]
        ring = self._ring_bytes(c)
        read = 4.0 * rows * width * depth
        moved = read * np.where(read > target.l2 / 2, _L3_BYTE, _L2_BYTE)
        taps = window.rows.taps / window.rows.stride
        spilled = 4.0 * c.blocks * rows * width * window.lanes * (1 + taps) * _L2_BYTE
        moved += np.where(ring > 0.75 * target.l1, spilled, 0.0)
        cores = np.where(c.parallel > 0, target.cores, 1)
        total: Floats = np.ceil(self._chunks(c) / cores) * (rows * map_row + used + moved + 100)
        return total

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. It is not made by scheduling primitives, so its trace is empty.

        Raises:
            SpaceError: the config is not in the space, or TVM cannot make the program.
        """
        blocks, tile, unroll, columns, rows, parts, parallel = (choice[0] for choice in choices_of(self, config))
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            nest = Nest(blocks, tile, unroll, columns, rows, parts, bool(parallel))
            body, buffers = write_expansion(self._form, nest)
            return schedule_statements(self._form.depthwise.module["main"], body, buffers)

    def _columns(self, configs: Configs) -> _Columns:
        return _Columns(*self._values(configs))


def _fits(form: Expansion, target: Target) -> bool:
    """Whether a vector of channels fits a register, and the rows that a row of results reads fit half a cache."""
    _, width = form.pixels
    window = form.depthwise
    return 2 <= window.lanes <= target.lanes and 4 * ring_rows(form, 1) * width * window.lanes <= target.l2 // 2


class ExpansionTemplate:
    """Schedules a 1x1 convolution and the depthwise one that reads its result, as one function."""

    name = "expansion"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is two such convolutions, and the rows between them fit a core's own cache."""
        return task.kind == self.kind and _read.fits(task) and _fits(_read(task), target)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return ExpansionSpace(task, target)
