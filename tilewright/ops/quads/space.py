"""The design space of packing planes into quads.

parallel for n·h: for w: written out for c: Y[n, 0, h, w, c] = f(X[n, c, h, w])

LLVM makes vectors of the loop over w: it loads each plane by vectors, and interleaves them before it stores. An image
of 224x224 took 18 µs so, with quantising; vectors of c, or of w for each c, took 111 and 45 µs (Emerald Rapids).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.quads.expression import BLOCK, KIND
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.loops import PARALLEL_WORK
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.space import DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.s_tir import Schedule

__all__ = ["QuadsSpace", "QuadsTemplate"]


def _analyse(task: Task) -> tuple[IRModule, int]:
    """The task's function, and how many bytes it writes."""
    module = task_module(task)
    with form_errors(f"{task.name!r} does not pack planes into quads"):
        schedule = _program(module, parallel=True)
        written = schedule.get(schedule.get_sblock(BLOCK)).writes[0].source
        return module, math.prod(int(extent) for extent in written.ty.shape)


_read_quads = FormReader(_analyse)


class QuadsSpace(KnobsAlone):
    """The programs that pack planes into quads.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Attributes:
        task: the task that is scheduled.
        target: the machine it is scheduled for.
        template: ``quads/1``.
        knobs: ``parallel``: whether rows run in parallel.
        has_loop_nest: false.

    Raises:
        FormError: the function does something else.
        SpaceError: the function cannot be read.
    """

    template = "quads/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._module, self._bytes = _read_quads(task)
        self.knobs: tuple[Knob, ...] = (ChoiceKnob.of("parallel", [0, 1]),)

    def default(self) -> NDArray[np.int32]:
        """In parallel if there is enough work. ``(knobs,)``."""
        return np.asarray([self._bytes >= PARALLEL_WORK], dtype=np.int32)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        ((parallel,),) = choices_of(self, config)
        with space_errors(f"{self.task.name!r} cannot be scheduled by rows of quads"):
            return _program(self._module, bool(parallel))


def _program(module: IRModule, parallel: bool) -> Schedule:
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    block = schedule.get_sblock(BLOCK)
    if schedule.get_consumers(block):
        raise FormError("nothing follows the packing of quads")
    for other in schedule.get_child_blocks(schedule.get_sblock("root")):
        if schedule.get(other).name_hint != BLOCK:
            schedule.compute_inline(other)
    *rows, _, channels = schedule.get_loops(block)
    schedule.unroll(channels)
    if parallel:
        schedule.parallel(schedule.fuse(*rows))
    return schedule


class QuadsTemplate:
    """Schedules the packing of planes into quads, and what is fused into it."""

    name = "quads"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function packs planes, and nothing follows."""
        return task.kind == self.kind and _read_quads.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return QuadsSpace(task, target)
