"""What a pool and its workers send each other: plain data over a pipe, one reply per command.

    Hello    -> Started                     once, first
    Prepare  -> Prepared                    before the first candidate of a task
    Build    -> Built or Failed
    Compile  -> Compiled or Failed          as a library, for a worker of another machine
    Run      -> Timed or Failed
    Lend     -> Lent or Failed              what the task's outputs must be, for workers that do not know it
    Adopt    -> nothing
    Race     -> Raced, or Failed if one candidate spoils the race for all
    Anchor   -> Anchored or Failed          the task's default, to see how fast the machine is
    Drop     -> nothing

A worker that dies or is killed sends no reply. :class:`tilewright.measure.process.Lost` stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tilewright.measure.arguments import Parameter, Reference
from tilewright.measure.outcome import Outcome
from tilewright.ops.generic.generation import Generated
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.task import Task

__all__ = [
    "Adopt",
    "Anchor",
    "Anchored",
    "Build",
    "Built",
    "Command",
    "Compile",
    "Compiled",
    "Drop",
    "Failed",
    "Hello",
    "Lend",
    "Lent",
    "Library",
    "Prepare",
    "Prepared",
    "Race",
    "Raced",
    "Reply",
    "Run",
    "SpaceFactory",
    "Started",
    "Timed",
]

#: Makes the design space of a task inside a worker. The worker finds it by its module and name, so it must be a
#: module-level function of an importable module.
SpaceFactory: TypeAlias = Callable[[Task, Target], DesignSpace]


@dataclass(frozen=True)
class Hello:
    """What the worker is for. If ``factory`` is None, it is ``tilewright.ops.registry.make_space``."""

    target: Target
    factory: SpaceFactory | None


@dataclass(frozen=True)
class Prepare:
    """Turn to ``task``: make its space and data.

    Attributes:
        task: the task of the next candidates.
        use_default: take the outputs of the default config for the reference, unless one is known. Otherwise the worker
            adopts another worker's reference, or takes the outputs of its first candidate.
        streamed: bytes of weights between two calls with the same weights (``Arguments.called``). 0: all calls have the
            same weights.
        generated: what MetaSchedule's generator made of the task under limits of time and memory, so that the worker's
            space has the same knobs as the pool's. None: the task needs no such limits.
    """

    task: Task
    use_default: bool
    streamed: int = 0
    generated: Generated | None = None


@dataclass(frozen=True)
class Library:
    """A candidate that another machine has compiled.

    Attributes:
        parameters: of its kernel.
        content: a shared library with the kernel.
    """

    parameters: tuple[Parameter, ...]
    content: bytes


@dataclass(frozen=True)
class Build:
    """Build ``config`` of the current task and keep it under ``candidate``.

    Attributes:
        candidate: its number.
        config: its config.
        library: the candidate, if another machine has compiled it; None: the worker compiles it.
    """

    candidate: int
    config: tuple[int, ...]
    library: Library | None = None


@dataclass(frozen=True)
class Compile:
    """Compile ``config`` of the current task. It is neither kept nor run: it may be for another processor."""

    config: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """Check and time a kept candidate. ``best``: the latency to beat in seconds, or ``inf``."""

    candidate: int
    best: float


@dataclass(frozen=True)
class Lend:
    """Send the reference of the current task."""


@dataclass(frozen=True)
class Adopt:
    """Compare outputs of the current task with another worker's reference.

    Attributes:
        parameters: of the kernel that it came from.
        reference: the outputs that count as right.
    """

    parameters: tuple[Parameter, ...]
    reference: Reference


@dataclass(frozen=True)
class Race:
    """Check kept candidates, then time them by turns for about ``seconds`` seconds."""

    candidates: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Anchor:
    """Time the default of the current task, which was kept when it was built."""


@dataclass(frozen=True)
class Drop:
    """Forget all kept candidates."""


@dataclass(frozen=True)
class Started:
    """The worker has its compiler. ``error``: why it cannot work, or empty."""

    error: str = ""


@dataclass(frozen=True)
class Prepared:
    """The worker has turned to the task.

    Attributes:
        error: why no config of the task can be built, or empty.
        reference: whether the worker knows what the outputs must be.
        anchor: whether the worker keeps the task's default, to time it.
    """

    error: str = ""
    reference: bool = False
    anchor: bool = False


@dataclass(frozen=True)
class Built:
    """The candidate is compiled and kept."""


@dataclass(frozen=True)
class Compiled:
    """The candidate is compiled, into ``library``."""

    library: Library


@dataclass(frozen=True)
class Timed:
    """The candidate's output is right.

    Attributes:
        repeats: its latency in seconds, in each block.
        causes: what disturbed the timing, as :class:`tilewright.measure.disturbance.Watch` calls it.
    """

    repeats: tuple[float, ...]
    causes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Anchored:
    """The latency of the task's default at this moment, in seconds."""

    seconds: float


@dataclass(frozen=True)
class Lent:
    """The reference of the current task, and the parameters of the kernel that it came from."""

    parameters: tuple[Parameter, ...]
    reference: Reference


@dataclass(frozen=True)
class Failed:
    """The candidate failed in a way that left the worker alive."""

    outcome: Outcome
    message: str


@dataclass(frozen=True)
class Raced:
    """What became of each candidate of a race. The i-th repeats of all that are right are of the same round."""

    results: tuple[Timed | Failed, ...]


Command: TypeAlias = Hello | Prepare | Build | Compile | Run | Race | Lend | Adopt | Anchor | Drop
Reply: TypeAlias = Started | Prepared | Built | Compiled | Timed | Raced | Anchored | Lent | Failed
