"""The sketches that MetaSchedule's generator makes of a function, in bounded time and the same in every process.

The generator has no limit of its own, and neither have the replays that find out what a trace may decide. So functions
are sorted by size, by limits that are the same on every machine:

    small     the sketches are made here, in less than a second
    medium    they are made in a process of its own, which ends at a limit of time and memory
    large     none are made

Whether a medium function stays within the limits depends on the machine. So one process tries, and hands the outcome to
the others (:func:`known_generated`, :func:`remember_generated`). A space without the generator's sketches has a
template of another name, so that its records are not mistaken for those of the whole space.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import SpaceError
from tilewright.ops.generic.trace import Generator, Sample, read_samples
from tilewright.space.inlining import MOST_LOADS, blocks_of, nested_loads
from tilewright.space.module import space_errors
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.s_tir.schedule import Trace

__all__ = [
    "Generated",
    "generate",
    "generate_apart",
    "is_small",
    "known_generated",
    "read_generated",
    "remember_generated",
    "why_too_large",
    "write_generated",
]

#: Most blocks of a small function. A convolution and 16 steps after it took 0.7 s on a Zen 4, most of it for replays.
_SMALL_BLOCKS = 24
#: Most blocks of a medium function. 66 blocks took 1.8 s; 128 blocks that only move elements took 0.5 s.
_MOST_BLOCKS = 128


@dataclass(frozen=True)
class Generated:
    """The outcome of a generator: plain data, to be handed to other processes.

    Attributes:
        traces: TVM's JSON of each sketch.
        samples: the sampling instructions of each sketch.
        problem: why there are no sketches, or "".
    """

    traces: tuple[str, ...] = ()
    samples: tuple[tuple[Sample, ...], ...] = ()
    problem: str = ""


#: The outcomes for medium tasks that this process knows, by the keys of task and target.
_known: dict[tuple[str, str], Generated] = {}


def known_generated(task: Task, target: Target) -> Generated | None:
    """The outcome for a medium task, made here or handed over; None if there is none yet, or the task is not medium."""
    return _known.get((task.key, target.key))


def remember_generated(task: Task, target: Target, made: Generated) -> None:
    """From now on, take ``made`` for the outcome of the generator for ``task``."""
    _known[task.key, target.key] = made


def why_too_large(module: IRModule) -> str:
    """Why the function is too large for the generator, or has no blocks that it knows; "" if neither is so."""
    try:
        with space_errors("MetaSchedule generates spaces of functions whose blocks are known"):
            blocks, loads = len(blocks_of(module)), nested_loads(module)
    except SpaceError as exc:  # TVM has written loops without a block around them, as for ScatterElements
        return str(exc)
    if blocks > _MOST_BLOCKS:
        return f"MetaSchedule generates spaces of at most {_MOST_BLOCKS} blocks, but this function has {blocks}"
    if loads > MOST_LOADS:
        return (
            f"MetaSchedule generates spaces of formulas that load {MOST_LOADS:,} times when they are inlined into each "
            f"other, but these would {loads:,} times"
        )
    return ""


def is_small(module: IRModule) -> bool:
    """Whether the function is small: its sketches need no process of their own."""
    return len(blocks_of(module)) <= _SMALL_BLOCKS


def generate(module: IRModule, target: Target) -> list[tuple[Trace, list[Sample]]]:
    """The sketches of a function, made in this process: each with its sampling instructions.

    Raises:
        SpaceError: the generator gives no sketches.
    """
    with space_errors("MetaSchedule generates no space"):
        traces: list[Trace] = Generator(module, target.tvm).traces()
        return [(trace, read_samples(trace, module)) for trace in traces]


def generate_apart(task: Task, target: Target) -> Generated:
    """The sketches of a task, made in a process of its own unless their outcome is known. It is remembered."""
    made = known_generated(task, target)
    if made is None:
        from tilewright.measure.generating import generate_in_process  # only measure starts processes

        made = generate_in_process(task, target)
        remember_generated(task, target, made)
    return made


def write_generated(made: Sequence[tuple[Trace, list[Sample]]]) -> Generated:
    """Sketches as plain data."""
    traces = tuple(json.dumps(_plain(trace.as_json())) for trace, _ in made)
    return Generated(traces, tuple(tuple(samples) for _, samples in made))


def read_generated(made: Generated, module: IRModule) -> list[tuple[Trace, list[Sample]]]:
    """The sketches that ``made`` describes.

    Raises:
        SpaceError: there are no sketches, and the message says why; or they are of another function.
    """
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    if made.problem:
        raise SpaceError(made.problem)
    sketches = []
    with space_errors("MetaSchedule's sketches are of another function"):
        for text, samples in zip(made.traces, made.samples, strict=True):
            schedule = Schedule(module, seed=1)
            Trace.apply_json_to_schedule(json.loads(text), schedule)
            sketches.append((schedule.trace, list(samples)))
    return sketches


def _plain(value: object) -> object:
    """The value with Python's own numbers and texts in place of TVM's."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)
