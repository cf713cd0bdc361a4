"""What MetaSchedule's generator makes of a function: bounded, and the same in every process.

The generator, and the replays that show what a trace may decide, take time that nobody limits. So what they are given
is limited, by numbers that are the same on every machine:

    small     made here, in less than a second
    medium    made in a process of its own, which is ended at a limit of time and memory
    large     not made at all

Whether a medium function is within the limits depends on the machine. So it is decided once for a task: whoever has
tried hands the outcome to other processes (:func:`known_generated`, :func:`remember_generated`). A space without the
generator's sketches has another template's name, so that records of both are never mistaken.
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

#: A function of no more blocks is small: 0.7 s on a Zen 4 (a convolution and 16 steps after it, of which most is spent
#: on replays).
_SMALL_BLOCKS = 24
#: A function of more blocks is large. 66 blocks took 1.8 s, 128 took 0.5 s where they only move elements.
_MOST_BLOCKS = 128


@dataclass(frozen=True)
class Generated:
    """What came of a generator: plain data, to be handed to other processes.

    Attributes:
        traces: TVM's JSON of each sketch.
        samples: the sampling instructions of each.
        problem: why there are none, or "".
    """

    traces: tuple[str, ...] = ()
    samples: tuple[tuple[Sample, ...], ...] = ()
    problem: str = ""


#: What is known of medium tasks in this process, by the keys of task and target.
_known: dict[tuple[str, str], Generated] = {}


def known_generated(task: Task, target: Target) -> Generated | None:
    """What was made of a medium task, here or by whoever told this process; None: nothing yet, or it is not medium."""
    return _known.get((task.key, target.key))


def remember_generated(task: Task, target: Target, made: Generated) -> None:
    """Take ``made`` for what the generator makes of ``task`` from now on."""
    _known[task.key, target.key] = made


def why_too_large(module: IRModule) -> str:
    """Why no generator is to see the function, in words; "" where it may."""
    blocks, loads = len(blocks_of(module)), nested_loads(module)
    if blocks > _MOST_BLOCKS:
        return f"MetaSchedule generates spaces of at most {_MOST_BLOCKS} blocks, but this function has {blocks}"
    if loads > MOST_LOADS:
        return (
            f"MetaSchedule generates spaces of formulas that load {MOST_LOADS:,} times when they are inlined into each "
            f"other, but these would {loads:,} times"
        )
    return ""


def is_small(module: IRModule) -> bool:
    """Whether the generator needs no process of its own."""
    return len(blocks_of(module)) <= _SMALL_BLOCKS


def generate(module: IRModule, target: Target) -> list[tuple[Trace, list[Sample]]]:
    """The sketches of a function, here and now: each with its sampling instructions.

    Raises:
        SpaceError: the generator gives none.
    """
    with space_errors("MetaSchedule generates no space"):
        traces: list[Trace] = Generator(module, target.tvm).traces()
        return [(trace, read_samples(trace, module)) for trace in traces]


def generate_apart(task: Task, target: Target) -> Generated:
    """The same in a process of its own, unless it is known already; remembered from then on."""
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
        SpaceError: there are none, for a reason that it says; or they are of another function.
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
    """With Python's own numbers and texts for TVM's."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)
