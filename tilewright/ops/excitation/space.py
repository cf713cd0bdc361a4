"""The design space of squeeze and excitation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.excitation.form import KIND, Excitation, read_excitation
from tilewright.ops.excitation.program import write_excitation
from tilewright.ops.written import schedule_statements
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["ExcitationSpace", "ExcitationTemplate"]

#: Numbers (of the image, or weights) that a stage reads, below which waking other threads costs more than it saves:
#: about 2 µs of a core that reads them from its second cache.
_PARALLEL_WORK = 1 << 15


def _analyse(task: Task) -> Excitation:
    with form_errors(f"{task.name!r} is no squeeze and excitation"):
        return read_excitation(task_module(task))


_read = FormReader(_analyse)


class ExcitationSpace(KnobsAlone):
    """The programs of one squeeze and excitation.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``excitation/1``.
        knobs: ``mean``, ``squeeze``, ``excite`` and, if the image is multiplied, ``gate``: whether that stage runs on
            all threads.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is no squeeze and excitation, or its vectors do not fit a register.
        SpaceError: the function cannot be read.
    """

    template = "excitation/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._form = form = _read(task)
        if not _fits(form, target):
            raise FormError(f"a vector of {task.name!r} does not fit a register of {target.mcpu}")
        blocks = [stage.blocks for stage in form.stages] + ([form.stages[2].blocks] if form.gated is not None else [])
        self.knobs: tuple[Knob, ...] = tuple(
            ChoiceKnob.of(name, [0, 1] if form.batch * count > 1 else [0])
            for name, count in zip(("mean", "squeeze", "excite", "gate"), blocks, strict=False)
        )

    def default(self) -> NDArray[np.int32]:
        """All threads for each stage that reads enough. ``(knobs,)``."""
        form = self._form
        work = [form.batch * form.rows * form.columns * form.stages[0].blocks * form.stages[0].lanes]
        work += [math.prod(int(d) for d in s.weight.ty.shape) for s in form.stages if s.weight is not None]
        work += work[:1] if form.gated is not None else []
        wide = [count >= _PARALLEL_WORK and len(knob) > 1 for count, knob in zip(work, self.knobs, strict=True)]
        return np.asarray(wide, dtype=np.int32)

    def likely(self, count: int) -> Configs:
        """The default, then the configs that differ from it in few stages. ``(at most count, knobs)``."""
        sizes = [len(knob) for knob in self.knobs]
        grid = np.indices(sizes).reshape(len(sizes), -1).T.astype(np.int32)
        far = np.abs(grid - self.default()).sum(axis=1)
        return np.asarray(grid[far.argsort(kind="stable")][:count], dtype=np.int32)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        parallel = [bool(choice[0]) for choice in choices_of(self, config)]
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            body, buffers = write_excitation(self._form, parallel)
            return schedule_statements(self._form.module["main"], body, buffers)


class ExcitationTemplate:
    """Schedules squeeze and excitation of blocked float32 data."""

    name = "excitation"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is squeeze and excitation of vectors that fit a register of the target."""
        return task.kind == self.kind and _read.fits(task) and _fits(_read(task), target)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return ExcitationSpace(task, target)


def _fits(form: Excitation, target: Target) -> bool:
    return all(2 <= stage.lanes <= target.lanes for stage in form.stages)
