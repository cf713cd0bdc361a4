"""From a task to TVM's objects, and from TVM's errors to ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tilewright.errors import FormError, SpaceError
from tilewright.task import Task
from tilewright.tvm_compat import set_threads

if TYPE_CHECKING:
    from tvm.ir import IRModule

__all__ = ["TVM_ERRORS", "form_errors", "space_errors", "task_module"]

#: What crosses TVM's C++ boundary: its own errors derive from RuntimeError, some checks raise Python's.
TVM_ERRORS = (RuntimeError, ValueError, TypeError, LookupError)


def task_module(task: Task) -> IRModule:
    """The task's function, as the only one of a module and called ``main``.

    Raises:
        SpaceError: the task's text is not TVM's JSON of such a module.
    """
    set_threads()
    import tvm

    with space_errors(f"the function of {task.name!r} cannot be read"):
        module = tvm.ir.load_json(task.ir)
        if not isinstance(module, tvm.ir.IRModule) or [v.name_hint for v in module.get_global_vars()] != ["main"]:
            raise SpaceError(
                f"a task holds a module with one function, 'main', but that of {task.name!r} does not; "
                "take tasks from tilewright.graph.tasks"
            )
        return module


@contextmanager
def space_errors(what: str) -> Iterator[None]:
    """Turn whatever TVM raises inside into a ``SpaceError`` that starts with ``what``."""
    try:
        yield
    except SpaceError:
        raise
    except TVM_ERRORS as exc:
        raise SpaceError(f"{what}: {_gist(exc)}") from exc


@contextmanager
def form_errors(what: str) -> Iterator[None]:
    """Turn whatever TVM raises inside, where a function is examined, into a ``FormError`` that starts with ``what``."""
    try:
        yield
    except FormError:
        raise
    except TVM_ERRORS as exc:
        raise FormError(f"{what}: {_gist(exc)}") from exc


def _gist(exc: Exception) -> str:
    """The telling line of a TVM error: the sentence after the marker, without the rendered program below it."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    for marker in ("Error message: ", "InternalError: ", "Check failed: "):
        for line in lines:
            if marker in line:
                return line[line.index(marker) :][:300]
    return lines[0][:300] if lines else type(exc).__name__
