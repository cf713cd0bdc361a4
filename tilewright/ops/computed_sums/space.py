"""The design space of sums over the pixels of a computed image: that of the sums alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.computed_sums.form import KIND, Computed, read_computed, write_image
from tilewright.ops.pixel_sums import PixelSumsSpace, PixelSumsTemplate
from tilewright.space.knob import Knob
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.likely import find_likely
from tilewright.space.module import form_errors, space_errors
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["ComputedSumsSpace", "ComputedSumsTemplate"]


def _analyse(task: Task) -> Computed:
    with form_errors(f"{task.name!r} is no image with sums over its pixels"):
        return read_computed(task)


_read = FormReader(_analyse)


class ComputedSumsSpace(KnobsAlone):
    """The programs of a function that computes an image and sums over its pixels.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``computed_sums/1:`` and the template of the sums alone.
        knobs: of the sums alone.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function has another form.
        SpaceError: the function cannot be read.
    """

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._form = _read(task)
        self._base = PixelSumsSpace(self._form.base, target)
        self.template = f"computed_sums/1:{self._base.template}"
        self.knobs: tuple[Knob, ...] = self._base.knobs

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs are valid for the sums alone, and compute each pixel once. ``(n,)``."""
        return self._base.valid(configs)

    def default(self) -> NDArray[np.int32]:
        """The default of the sums alone. ``(knobs,)``."""
        return self._base.default()

    def likely(self, count: int) -> Configs:
        """The likely configs of the sums alone. ``(at most count, knobs)``."""
        return find_likely(self._base, count)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. Its trace is empty, since a buffer becomes a result after it was scheduled.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        import tvm
        from tvm.s_tir import Schedule

        scheduled = self._base.schedule(config)
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            function = write_image(self._form, scheduled.mod["main"])
            return Schedule(tvm.ir.IRModule({"main": function}), seed=1)


class ComputedSumsTemplate:
    """Schedules functions that compute an image and sums over its pixels."""

    name = "computed_sums"
    kind = KIND

    def __init__(self) -> None:
        self._sums = PixelSumsTemplate()

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function has this form, and the sums alone are served."""
        return task.kind == self.kind and _read.fits(task) and self._sums.serves(_read(task).base, target)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return ComputedSumsSpace(task, target)
