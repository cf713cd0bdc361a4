"""The design space of element-wise functions: one pass over the results.

parallel for piece: for rows of the piece: for each vector of the row:
    for each step that is read more than once: vectorised: s[...] = f(...)
    vectorised: Y[...] = g(s[...], X[...])

A step that is read once is computed where it is read. Other steps keep their elements in registers. So the program
grows in proportion to the number of steps. If a row is no multiple of the vector, its last vector begins earlier, and
computes some elements twice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.elementwise.form import Form, read_form
from tilewright.ops.elementwise.program import make_program
from tilewright.ops.mark import UNMARKED
from tilewright.ops.vectors import fit_vector
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

__all__ = ["ElementwiseSpace", "ElementwiseTemplate"]

#: Elements of the shortest row. For rows of 3, LLVM's code for plain loops was twice as fast as vectors.
_SHORTEST_ROW = 4
#: Bytes of an element for which the target counts its lanes.
_LANE_BYTES = 4
#: Choices for the vectors that one iteration computes side by side. A row must have as many.
_UNROLLED = (1, 2, 4, 8)
#: Most loads of a program, for all vectors together. The compiler takes 1 s for so many.
_MOST_WRITTEN = 4096


def _analyse(task: Task) -> tuple[IRModule, Form]:
    """The task's function and its form."""
    from tvm.s_tir import Schedule

    module = task_module(task)
    with form_errors(f"{task.name!r} is no element-wise function"):
        form = read_form(module)
        row = _row(form)
        if row < _SHORTEST_ROW and len(form.axes) > 1:
            raise FormError(f"rows have at least {_SHORTEST_ROW} elements here, but those of {task.name!r} have {row}")
        # If TVM takes one program of the function, it takes all of them.
        Schedule(make_program(module, form, 1, fit_vector(row, _SHORTEST_ROW), 1))
    return module, form


_read_elementwise = FormReader(_analyse)


def _row(form: Form) -> int:
    """Elements of a row of the results."""
    return form.axes[-1].extent if form.axes else 1


class ElementwiseSpace(KnobsAlone):
    """The programs of one element-wise function.

    To make it takes time in proportion to the length of the function.

    Attributes:
        task: the task that is scheduled.
        target: the machine it is scheduled for.
        template: ``elementwise/1``.
        knobs: ``pieces`` of the results that run in parallel; ``vector``, elements of a vector; ``unroll``, vectors
            that are computed side by side.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is not element-wise, or its rows are shorter than any vector.
        SpaceError: the function cannot be read.
    """

    template = "elementwise/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._module, self._form = _read_elementwise(task)
        row = _row(self._form)
        lanes = max(1, target.lanes * _LANE_BYTES // self._form.bytes)
        vectors = sorted({fit_vector(row, lanes), fit_vector(row, max(1, lanes // 2))}, reverse=True)
        loads = sum(sum(step.loads.values()) for step in self._form.steps)
        most = max(1, min(row // vectors[0], _MOST_WRITTEN // max(1, loads)))
        self.knobs: tuple[Knob, ...] = (
            ChoiceKnob.of("pieces", self._pieces(vectors[-1])),
            ChoiceKnob.of("vector", vectors),
            ChoiceKnob.of("unroll", [count for count in _UNROLLED if count <= most]),
        )

    def _pieces(self, vector: int) -> list[int]:
        """Numbers of pieces that are worth a try: 1, and multiples of the cores."""
        vectors = math.prod(self._form.shape) // vector
        return [1, *sorted({n for n in (times * self.target.cores for times in (1, 2, 4)) if 1 < n <= vectors})]

    def default(self) -> NDArray[np.int32]:
        """Longest vectors, two side by side; in parallel if there is enough work. ``(knobs,)``."""
        parallel = self._form.work >= PARALLEL_WORK and len(self.knobs[0]) > 1
        return np.asarray([parallel, 0, min(1, len(self.knobs[2]) - 1)], dtype=np.int32)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. It is written, not made by primitives of a schedule. So its trace is empty.

        Raises:
            SpaceError: the config is not of the space, or TVM cannot make the program.
        """
        from tvm.s_tir import Schedule

        pieces, vector, unroll = (choice[0] for choice in choices_of(self, config))
        with space_errors(f"{self.task.name!r} cannot be scheduled element by element"):
            return Schedule(make_program(self._module, self._form, pieces, vector, unroll), seed=1)


class ElementwiseTemplate:
    """Schedules functions whose results depend on the elements at the same place alone."""

    name = "elementwise"
    kind = UNMARKED.kind

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is element-wise."""
        return task.kind == self.kind and _read_elementwise.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return ElementwiseSpace(task, target)
