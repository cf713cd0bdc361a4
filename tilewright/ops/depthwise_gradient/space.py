"""The design space of the gradient of a depthwise convolution's data."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.depthwise.form import Depthwise
from tilewright.ops.depthwise_gradient.expression import KIND
from tilewright.ops.depthwise_gradient.form import read_gradient
from tilewright.ops.depthwise_gradient.program import Nest, find_reads, find_tiles, write_gradient
from tilewright.ops.written import schedule_statements
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob
from tilewright.space.module import form_errors, space_errors
from tilewright.space.ranked import RankedSpace
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["DepthwiseGradientSpace", "DepthwiseGradientTemplate"]

#: Columns of the widest tile, and the parts that the rows of a block are cut into. (Processor time for 64 channels of
#: 112x112 pixels and a kernel of 3x3: 5.2 ms with 24 columns, 4.3 to 4.9 ms with 8 to 16. For 72 channels of 56x56
#: pixels and a kernel of 5x5: 1.5 and 1.15 ms.)
_WIDEST, _PARTS = 16, (1, 2, 3, 4, 6, 8, 12, 16, 28, 56)
#: Multiply-adds (about 10 µs) below which waking other threads costs more than it saves.
_PARALLEL_WORK = 1 << 18
#: Most multiply-adds that are written out for the tiles of one group of rows.
_BODY = 1024


def _analyse(task: Task) -> Depthwise:
    with form_errors(f"{task.name!r} is no gradient of a depthwise convolution's data"):
        return read_gradient(task)


_read = FormReader(_analyse)


class DepthwiseGradientSpace(RankedSpace):
    """The programs of the gradient of one depthwise convolution's data.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``depthwise_gradient/1``.
        knobs: ``columns`` of a tile in registers; ``parts`` into which the rows of a block are cut; ``parallel``:
            whether parts run in parallel.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is no gradient that the template knows.
        SpaceError: the function cannot be read.
    """

    template = "depthwise_gradient/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._form = form = _read(task)
        if not 2 <= form.lanes <= target.lanes:
            raise FormError(
                f"a register of {target.mcpu} holds {target.lanes} lanes, but {task.name!r} has {form.lanes}"
            )
        step = form.columns.stride
        widest = max(1, min(_WIDEST, target.registers - 2, form.columns.size) // step)
        self._groups = -(-form.rows.size // form.rows.stride)
        self.knobs: tuple[Knob, ...] = (
            ChoiceKnob.of("columns", [step * count for count in range(1, widest + 1)]),
            ChoiceKnob.of("parts", [parts for parts in _PARTS if parts == 1 or parts <= self._groups]),
            ChoiceKnob.of("parallel", [0, 1]),
        )

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs write out little enough, and are the one config of their program. ``(n,)``."""
        form = self._form
        _, parts, parallel = self._values(configs)
        each = -(-self._groups // parts)
        ok: NDArray[np.bool_] = (self._written[configs[:, 0]] <= _BODY) | (configs[:, 0] == 0)
        ok &= -(-self._groups // each) == parts
        ok &= (parallel == 0) | (form.batch * form.blocks * parts > 1)
        return ok

    @cached_property
    def _written(self) -> NDArray[np.int64]:
        """The multiply-adds that are written out for each choice of columns."""
        form = self._form
        tiles = [find_tiles(form.columns, choice[0]) for choice in self.knobs[0].choices]
        found = [sum(len(_reads_of(form, tile.first, tile.columns)) for tile in some) for some in tiles]
        return np.asarray(found, dtype=np.int64) * (form.rows.taps + form.rows.stride)

    def _rank(self) -> Configs:
        """Configs by their estimated cycles, fewest first."""
        form = self._form
        configs = self._combine()
        work = form.batch * form.blocks * form.lanes * form.rows.outputs * form.columns.outputs
        large = work * form.rows.taps * form.columns.taps >= _PARALLEL_WORK
        parts = self._values(configs)[1]
        configs = configs[configs[:, 2] == (large & (form.batch * form.blocks * parts > 1))]
        configs = configs[self.valid(configs)]
        _, parts, parallel = self._values(configs)
        group = np.asarray([self._group_cycles(choice[0]) for choice in self.knobs[0].choices])[configs[:, 0]]
        cores = np.where(parallel > 0, self.target.cores, 1)
        cost = np.ceil(form.batch * form.blocks * parts / cores) * (-(-self._groups // parts) * group + 60)
        return np.asarray(configs[cost.argsort(kind="stable")], dtype=np.int32)

    def _group_cycles(self, columns: int) -> float:
        """Estimated cycles of a group of rows, by tiles of so many columns."""
        form = self._form
        total = 0.0
        for tile in find_tiles(form.columns, columns):
            reads = _reads_of(form, tile.first, tile.columns)
            loads = len({at for at, _ in reads}) + form.columns.taps
            # Two multiply-adds and two loads a cycle; four cycles until a sum is ready for the next addition.
            busy = max(len(reads) / 2, loads / 2, 4 * len(reads) / tile.columns)
            spilled = 1.5 if tile.columns + form.columns.taps + 1 > self.target.registers else 1.0
            # The taps of all rows of a group are those of the kernel.
            total += tile.count * (form.rows.taps * spilled * busy + form.rows.stride * (2 * tile.columns + 6))
        return total

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        columns, parts, parallel = (choice[0] for choice in choices_of(self, config))
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            body, buffers = write_gradient(self._form, Nest(columns, parts, bool(parallel)))
            return schedule_statements(self._form.module["main"], body, buffers)


def _reads_of(form: Depthwise, first: int, columns: int) -> list[tuple[int, int]]:
    """The columns that a tile reads, each with the column of the result that it is added to."""
    window = form.columns
    reads = ((at, c) for c in range(first, first + columns) for _, at in find_reads(window, c))
    return [(at, c) for at, c in reads if 0 <= at < window.outputs]


class DepthwiseGradientTemplate:
    """Schedules gradients of the data of depthwise convolutions, and what is fused into them."""

    name = "depthwise_gradient"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is such a gradient, of vectors that fit a register of the target."""
        if task.kind != self.kind or not _read.fits(task):
            return False
        return 2 <= _read(task).lanes <= target.lanes

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return DepthwiseGradientSpace(task, target)
