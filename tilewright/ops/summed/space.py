"""The design space of functions with sums: that of the function without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.summed.form import KIND, Summed, read_summed
from tilewright.ops.summed.program import add_sums
from tilewright.space.configs import canonical
from tilewright.space.knob import Knob
from tilewright.space.likely import find_likely
from tilewright.space.loop_nest import LoopNest
from tilewright.space.module import form_errors, space_errors
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader, Template
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["SummedSpace", "SummedTemplate"]


def _analyse(task: Task) -> Summed:
    with form_errors(f"{task.name!r} has no sums of the form that is known"):
        return read_summed(task)


_read = FormReader(_analyse)


class SummedSpace:
    """The programs of a function with sums.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``summed/1:`` and the template of the function without sums, such as ``summed/1:contraction/4``.
        knobs: of the function without sums.
        has_loop_nest: whether the function without sums has loop nests in closed form. They leave out the sums.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.
        base: the design space of the function without sums.

    Raises:
        FormError: the function has no sums.
        SpaceError: the function cannot be read.
    """

    def __init__(self, task: Task, target: Target, base: DesignSpace) -> None:
        self.task, self.target = task, target
        self._form, self._base = _read(task), base
        self.template = f"summed/1:{base.template}"
        self.knobs: tuple[Knob, ...] = base.knobs
        self.has_loop_nest = base.has_loop_nest

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs are valid without sums. ``(n,)``."""
        return self._base.valid(configs)

    def canonical(self, configs: Configs) -> Configs:
        """The configs with idle knobs at 0. ``(n, knobs)``."""
        return canonical(self._base, configs)

    def loop_nest(self, configs: Configs) -> LoopNest:
        """The programs without sums in closed form. Raises ``SpaceError`` if there is none."""
        return self._base.loop_nest(configs)

    def default(self) -> NDArray[np.int32]:
        """The default without sums. ``(knobs,)``."""
        return self._base.default()

    def likely(self, count: int) -> Configs:
        """The likely configs without sums. ``(at most count, knobs)``."""
        return find_likely(self._base, count)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. Its trace is empty, since sums are added to a finished program.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        import tvm
        from tvm.s_tir import Schedule

        scheduled = self._base.schedule(config)
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            function = add_sums(self._form, scheduled.mod["main"], self.target.cores)
            return Schedule(tvm.ir.IRModule({"main": function}), seed=1)


class SummedTemplate:
    """Schedules functions with sums by the templates of the functions without them.

    Args:
        bases: the templates. The first that serves the function without sums makes its space.
    """

    name = "summed"
    kind = KIND

    def __init__(self, bases: Sequence[Template]) -> None:
        self._bases = tuple(bases)

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function without sums is served, and its default program can have them."""
        return task.kind == self.kind and _read.fits(task) and self._find(task, target) is not None

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        base = self._find(task, target)
        if base is None:
            raise FormError(f"no template serves {task.name!r} without its sums")
        return SummedSpace(task, target, base.space(_read(task).base, target))

    def _find(self, task: Task, target: Target) -> Template | None:
        inner = _read(task).base
        return next((base for base in self._bases if base.serves(inner, target)), None)
