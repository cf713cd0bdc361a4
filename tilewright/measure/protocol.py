"""What the pool and its workers say to each other: plain data over a pipe, one reply per command.

    Hello    -> Started                     once, first
    Prepare  -> Prepared                    before the first candidate of a task
    Build    -> Built or Failed
    Run      -> Timed or Failed
    Race     -> Raced, or Failed where one spoils it for all
    Drop     -> nothing

A worker that dies or is killed has no reply; :class:`Lost` is what the pool's side makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tilewright.measure.outcome import Outcome
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.task import Task

__all__ = [
    "Build",
    "Built",
    "Command",
    "Drop",
    "Failed",
    "Hello",
    "Lost",
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

#: Makes the design space of a task inside a worker. Found by its module and name there, so it must be a
#: module-level function of an importable module.
SpaceFactory: TypeAlias = Callable[[Task, Target], DesignSpace]


@dataclass(frozen=True)
class Hello:
    """What the worker is for. ``factory`` None stands for ``tilewright.space.registry.make_space``."""

    target: Target
    factory: SpaceFactory | None


@dataclass(frozen=True)
class Prepare:
    """Turn to ``task``: make its space and data.

    Attributes:
        task: what the next candidates are of.
        use_default: take the default config's output for the reference; otherwise it is the first candidate's.
    """

    task: Task
    use_default: bool


@dataclass(frozen=True)
class Build:
    """Build ``config`` of the current task and keep it under ``candidate``."""

    candidate: int
    config: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """Check and time a kept candidate. ``best``: the latency to beat in seconds, or ``inf``."""

    candidate: int
    best: float


@dataclass(frozen=True)
class Race:
    """Check kept candidates, then time them by turns for about so many ``seconds``."""

    candidates: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Drop:
    """Forget all kept candidates."""


@dataclass(frozen=True)
class Started:
    """The worker has its compiler. ``error``: why it cannot work, or empty."""

    error: str = ""


@dataclass(frozen=True)
class Prepared:
    """The worker has turned to the task. ``error``: why no config of it can be built, or empty."""

    error: str = ""


@dataclass(frozen=True)
class Built:
    """The candidate is compiled and kept."""


@dataclass(frozen=True)
class Timed:
    """The candidate's output is right.

    Attributes:
        repeats: its latency in seconds, several times.
        causes: what disturbed the timing, as :class:`tilewright.measure.disturbance.Watch` calls it.
    """

    repeats: tuple[float, ...]
    causes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """The candidate failed in a way that left the worker alive."""

    outcome: Outcome
    message: str


@dataclass(frozen=True)
class Raced:
    """What became of each candidate of a race; the i-th repeats of all that are right were timed in the same round."""

    results: tuple[Timed | Failed, ...]


@dataclass(frozen=True)
class Lost:
    """The worker is gone, killed by us when ``timed_out``. ``reason``: its signal or exit code, and its last words."""

    timed_out: bool
    reason: str


Command: TypeAlias = Hello | Prepare | Build | Run | Race | Drop
Reply: TypeAlias = Started | Prepared | Built | Timed | Raced | Failed
