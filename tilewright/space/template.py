"""The contract of a template: which tasks it serves, and the design space that it makes for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from tilewright.errors import FormError
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.task import Task

__all__ = ["FormReader", "Template"]

F = TypeVar("F")

#: Tasks whose forms a reader keeps. A network has at most a few hundred different tasks.
_KEPT = 512


class Template(Protocol):
    """A family of design spaces: what an operator family offers.

    ``make_space`` (:mod:`tilewright.ops.registry`) asks one template after the other. The first that serves a task
    makes its space.

    Attributes:
        name: of the template, as in ``DesignSpace.template`` before the slash.
        kind: of the tasks that the template is made for (``Task.kind``), as the marks of expressions say it; ``auto``
            for functions without a mark.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the template can schedule ``task`` for ``target``. Called often; makes no space."""
        ...

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The design space of a ``task`` that the template serves on ``target``: the same knobs in every process."""
        ...


class FormReader(Generic[F]):
    """Reads what a template must know of a task's function, once for each task.

    The form does not depend on the target. So the second target, and the space after ``serves``, get it for free.

    Args:
        read: reads the form of a task's function; raises ``FormError`` for a function of another form.
    """

    def __init__(self, read: Callable[[Task], F]) -> None:
        @lru_cache(_KEPT)
        def outcome(task: Task) -> F | _Refusal:
            try:
                return read(task)
            except FormError as exc:
                return _Refusal(str(exc))

        self._outcome = outcome

    def __call__(self, task: Task) -> F:
        """The form of the task's function.

        Raises:
            FormError: the function is of another form.
            SpaceError: the function cannot be read.
        """
        outcome = self._outcome(task)
        if isinstance(outcome, _Refusal):
            raise FormError(outcome.reason)
        return outcome

    def fits(self, task: Task) -> bool:
        """Whether the task's function is of the form.

        Raises:
            SpaceError: the function cannot be read.
        """
        return not isinstance(self._outcome(task), _Refusal)


@dataclass(frozen=True)
class _Refusal:
    """Why a function is not of the form. It is kept instead of the error, whose traceback holds TVM's objects."""

    reason: str
