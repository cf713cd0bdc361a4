"""Which design space serves a task."""

from __future__ import annotations

from tilewright.errors import SpaceError
from tilewright.space.module import task_module
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.task import Task

__all__ = ["make_space", "task_module"]


def make_space(task: Task, target: Target) -> DesignSpace:
    """The design space of ``task`` on ``target``: the same knobs in every process.

    A contraction, a transform, a function over rows, over windows or over elements that its template cannot serve gets
    the *auto* space.

    Raises:
        SpaceError: a task of unknown kind, or one whose function cannot be read.
    """
    if task.kind not in ("contraction", "rows", "winograd", "auto"):
        raise SpaceError(
            f"a task's kind is 'contraction', 'rows', 'winograd' or 'auto', but that of {task.name!r} is {task.kind!r}"
        )
    if task.kind == "winograd":
        from tilewright.space.winograd import WinogradTransformSpace
        from tilewright.space.winograd_fused import FusedWinogradSpace

        for kind in (FusedWinogradSpace, WinogradTransformSpace):
            try:
                return kind(task, target)
            except SpaceError:
                pass
    if task.kind == "contraction":
        from tilewright.space.contraction import ContractionSpace

        try:
            return ContractionSpace(task, target)
        except SpaceError:
            pass
    if task.kind == "rows":
        from tilewright.space.rows import RowsSpace

        try:
            return RowsSpace(task, target)
        except SpaceError:
            pass
    if task.kind == "auto":
        from tilewright.space.elementwise import ElementwiseSpace
        from tilewright.space.window import WindowSpace

        for template in (ElementwiseSpace, WindowSpace):
            try:
                return template(task, target)
            except SpaceError:
                pass
    from tilewright.space.auto import AutoSpace

    return AutoSpace(task, target)
