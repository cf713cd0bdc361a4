"""The design spaces of a layer norm in training and of its gradient.

``ops/norms/program`` explains the loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.norms.expression import norm_gradient, training_norm
from tilewright.ops.norms.form import GRADIENT, NORM, NormGradient, TrainingNorm
from tilewright.ops.norms.program import write_gradient, write_norm
from tilewright.ops.written import read_written, schedule_statements
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, divisors
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.loops import PARALLEL_WORK
from tilewright.space.module import space_errors
from tilewright.space.space import DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["NormGradientTemplate", "NormSpace", "TrainingNormTemplate"]

_read_norm = FormReader(lambda task: read_written(task, NORM, TrainingNorm.parse, training_norm))
_read_gradient = FormReader(lambda task: read_written(task, GRADIENT, NormGradient.parse, norm_gradient))


class NormSpace(KnobsAlone):
    """The programs of one layer norm in training, or of the gradient of one.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``training_norm/1`` or ``norm_gradient/1``.
        knobs: ``parts``: how many parts of the rows run in parallel. If vectors do not divide rows and columns, the
            only choice is 0: plain loops. ``together``: for a gradient, the rows whose sums stay in registers; for a
            norm, it has one choice.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is neither a layer norm in training nor the gradient of one.
        SpaceError: the function cannot be read.
    """

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self.template = f"{task.kind}/1"
        self._form: TrainingNorm | NormGradient
        self._module, self._form = _read_norm(task) if task.kind == NORM else _read_gradient(task)
        form, lanes = self._form, target.lanes
        whole = form.rows % lanes == form.columns % lanes == 0
        parts = {n for n in (1, target.cores, 2 * target.cores, 4 * target.cores) if n == 1 or n <= form.rows // lanes}
        sums = [n for n in divisors(lanes) if 3 * n <= target.registers] if task.kind == GRADIENT else [1]
        self.knobs: tuple[Knob, ...] = (
            ChoiceKnob.of("parts", sorted(parts) if whole else [0]),
            ChoiceKnob.of("together", sums if whole else [1]),
        )

    def default(self) -> NDArray[np.int32]:
        """One part for each core, if there is enough to do; as many sums in registers as fit. ``(knobs,)``."""
        parallel = self._form.rows * self._form.columns >= PARALLEL_WORK and len(self.knobs[0]) > 1
        return np.asarray([parallel, len(self.knobs[1]) - 1], dtype=np.int32)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. It is not made by scheduling primitives, so its trace is empty.

        Raises:
            SpaceError: the config is not in the space, or TVM cannot make the program.
        """
        from tvm.s_tir import Schedule

        (parts,), (together,) = choices_of(self, config)
        if not parts:
            return Schedule(self._module, seed=1)
        main, lanes, form = self._module["main"], self.target.lanes, self._form
        with space_errors(f"{self.task.name!r} cannot be scheduled by rows"):
            params = list(main.params)
            if isinstance(form, TrainingNorm):
                return schedule_statements(main, *write_norm(form, params, lanes, parts))
            return schedule_statements(main, *write_gradient(form, params, lanes, parts, together))


class TrainingNormTemplate:
    """Schedules layer norms in training."""

    name = kind = NORM

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the task's function is a layer norm in training."""
        return task.kind == self.kind and _read_norm.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return NormSpace(task, target)


class NormGradientTemplate:
    """Schedules gradients of layer norms."""

    name = kind = GRADIENT

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the task's function is the gradient of a layer norm."""
        return task.kind == self.kind and _read_gradient.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return NormSpace(task, target)
