"""What the pool and its workers say to each other: plain data over a pipe, one reply per command.

    Hello    -> Started                     once, first
    Prepare  -> Prepared                    before the first candidate of a task
    Build    -> Built or Failed
    Run      -> Timed or Failed
    Lend     -> Lent or Failed              what the task's outputs must be, for the workers that do not know it
    Adopt    -> nothing
    Race     -> Raced, or Failed where one spoils it for all
    Anchor   -> Anchored or Failed          the task's default, to see how fast the machine is
    Drop     -> nothing

A worker that dies or is killed has no reply; :class:`Lost` is what the pool's side makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tilewright.measure.arguments import Parameter, Reference
from tilewright.measure.memory import in_words
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
    "Drop",
    "Failed",
    "Hello",
    "Lend",
    "Lent",
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
    """What the worker is for. ``factory`` None stands for ``tilewright.ops.registry.make_space``."""

    target: Target
    factory: SpaceFactory | None


@dataclass(frozen=True)
class Prepare:
    """Turn to ``task``: make its space and data.

    Attributes:
        task: what the next candidates are of.
        use_default: take the default config's output for the reference, unless one is known; otherwise it is adopted
            from another worker, or the first candidate's.
        streamed: bytes of weights between two calls with the same ones (``Arguments.called``); 0: all have the same.
        generated: what MetaSchedule's generator made of the task under limits of time and memory, so that the worker's
            space has the knobs of the pool's; None: that was not needed.
    """

    task: Task
    use_default: bool
    streamed: int = 0
    generated: Generated | None = None


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
class Lend:
    """Tell the reference of the current task."""


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
    """Check kept candidates, then time them by turns for about so many ``seconds``."""

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
        error: why no config of it can be built, or empty.
        reference: whether it knows what the outputs must be.
        anchor: whether it keeps the task's default, so that it can time it.
    """

    error: str = ""
    reference: bool = False
    anchor: bool = False


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
class Anchored:
    """What the task's default takes at this moment, in seconds."""

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
    """What became of each candidate of a race; the i-th repeats of all that are right were timed in the same round."""

    results: tuple[Timed | Failed, ...]


@dataclass(frozen=True)
class Lost:
    """The worker is gone.

    Attributes:
        timed_out: it was killed by us because its reply was overdue.
        reason: its signal or exit code, and its last words.
        memory: the bytes that it had when it was killed by us for having too many; otherwise 0.
    """

    timed_out: bool
    reason: str
    memory: int = 0

    def because(self, allowed: int, what: str, seconds: float) -> str:
        """Why ``what`` has failed, in words; ``allowed``: bytes of memory that a worker may have."""
        if self.timed_out:
            return f"{what} took longer than {seconds:.3g} s"
        if self.memory:
            return f"{what} took its worker to {in_words(self.memory)} of memory, where {in_words(allowed)} are allowed"
        hint = ", which the system sends when memory runs out" if self.reason.startswith("SIGKILL") else ""
        return f"{what} ended its process: {self.reason}{hint}"


Command: TypeAlias = Hello | Prepare | Build | Run | Race | Lend | Adopt | Anchor | Drop
Reply: TypeAlias = Started | Prepared | Built | Timed | Raced | Anchored | Lent | Failed
