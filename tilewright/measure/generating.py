"""MetaSchedule's generator in a process of its own, which is ended at its limits of time and memory."""

from __future__ import annotations

from typing import cast

from tilewright.errors import MeasureError, ProcessError, SpaceError
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.measure.memory import usable_memory
from tilewright.ops.generic.generation import Generated, generate, write_generated
from tilewright.target import Target
from tilewright.task import Task

__all__ = ["generate_in_process"]

#: Seconds that importing TVM and generating may take: ten times what the largest function that is tried needs.
_SECONDS = 30.0
#: Bytes that the process may have, at most half of the machine's: six times what the largest such function needs.
_MEMORY = 2 << 30


def generate_in_process(task: Task, target: Target, seconds: float = _SECONDS, memory: int | None = None) -> Generated:
    """What MetaSchedule's generator makes of ``task`` within the limits. An interrupt ends the process, too.

    Args:
        task: what is to be scheduled.
        target: what for.
        seconds: the process may take.
        memory: bytes that the process may have; None: 2 GiB, or half of the machine's.
    """
    allowed = min(_MEMORY, usable_memory() // 2) if memory is None else memory
    variables = {"TVM_NUM_THREADS": str(target.cores)}
    try:
        with IsolatedCall(_generate, task, target, seconds=seconds, memory=allowed, environment=variables) as call:
            try:
                return cast(Generated, call.result())
            except ProcessError as exc:
                problem = str(exc) if call.lost is None else call.lost.because(allowed, "it", seconds)
    except MeasureError as exc:
        return Generated(problem=f"MetaSchedule's generator cannot be run in a process of its own: {exc}")
    except Exception as exc:  # TVM raises anything
        problem = f"{type(exc).__name__}: {exc}"
    return Generated(problem=f"MetaSchedule's generator was given up: {problem}")


def _generate(task: Task, target: Target) -> Generated:
    """What the process calls."""
    from tilewright.space.module import task_module
    from tilewright.tvm_compat import light_import

    with light_import():
        import tvm  # noqa: F401  without PyTorch it takes half of the time
    try:
        return write_generated(generate(task_module(task), target))
    except SpaceError as exc:
        return Generated(problem=str(exc))
