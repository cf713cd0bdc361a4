"""Makes the design space of each task once, for the incumbent and for tuning."""

from __future__ import annotations

from tilewright.ops.registry import make_space
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.task import Task

__all__ = ["Spaces"]


class Spaces:
    """The design spaces of tasks. Call it as :func:`tilewright.ops.registry.make_space`: it raises as that does."""

    def __init__(self) -> None:
        self._made: dict[tuple[Task, Target], DesignSpace] = {}

    def __call__(self, task: Task, target: Target) -> DesignSpace:
        """The design space of a task, which is the same object for the same task and target."""
        found = self._made.get((task, target))
        if found is None:
            found = self._made[task, target] = make_space(task, target)
        return found
