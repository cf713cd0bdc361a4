"""Reads the function of a task, and translates the errors of TVM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.errors import FormError, SpaceError
from tilewright.task import Task
from tilewright.tvm_compat import load_object, set_threads

if TYPE_CHECKING:
    from tvm.ir import IRModule

__all__ = ["TVM_ERRORS", "form_errors", "space_errors", "task_module"]

#: What TVM raises. The errors of its C++ code derive from RuntimeError; some of its checks raise errors of Python.
TVM_ERRORS = (RuntimeError, ValueError, TypeError, LookupError)
#: Functions that are kept: templates are asked one after the other, and read the same one.
_KEPT = 8


def task_module(task: Task) -> IRModule:
    """The task's function: the only one of the module, called ``main``.

    Raises:
        SpaceError: the task's text is not TVM's JSON of such a module.
    """
    module: IRModule = _read(task).clone()  # callers may put other functions into theirs
    return module


@lru_cache(_KEPT)
def _read(task: Task) -> IRModule:
    set_threads()
    import tvm

    with space_errors(f"the function of {task.name!r} cannot be read"):
        module = load_object(task.ir)
        if not isinstance(module, tvm.ir.IRModule) or [v.name_hint for v in module.get_global_vars()] != ["main"]:
            raise SpaceError(
                f"a task holds a module with one function, 'main', but that of {task.name!r} does not; "
                "take tasks from tilewright.graph.tasks"
            )
        return module


@contextmanager
def space_errors(what: str) -> Iterator[None]:
    """Turn an error of TVM inside the context into a ``SpaceError`` whose message starts with ``what``."""
    try:
        yield
    except SpaceError:
        raise
    except TVM_ERRORS as exc:
        raise SpaceError(f"{what}: {_gist(exc)}") from exc


@contextmanager
def form_errors(what: str) -> Iterator[None]:
    """Turn an error of TVM inside the context, which reads a form, into a ``FormError`` that starts with ``what``."""
    try:
        yield
    except FormError:
        raise
    except TVM_ERRORS as exc:
        raise FormError(f"{what}: {_gist(exc)}") from exc


def _gist(exc: Exception) -> str:
    """The line of a TVM error that says what is wrong, without the program that TVM prints below it."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    for marker in ("Error message: ", "InternalError: ", "Check failed: "):
        for line in lines:
            if marker in line:
                return line[line.index(marker) :][:300]
    return lines[0][:300] if lines else type(exc).__name__
