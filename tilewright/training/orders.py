"""What the process that trains asks of the one that compiles, and what it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tilewright.frontend.torch.part import Layout

if TYPE_CHECKING:
    from tilewright.training.live import LivePart

__all__ = ["KernelTask", "Order", "Prepared", "Proposal", "Request"]


class KernelTask(NamedTuple):
    """What a kernel computes: the name of its task, for people, and the floating-point operations of a call."""

    name: str
    flop: float


@dataclass(frozen=True)
class Request:
    """A part that is to be compiled and tuned.

    Attributes:
        name: of the part.
        module: its pickled module.
        inputs, outputs: the layouts of what it takes and gives.
        seconds: how long tuning may take now; 0: the part gets the schedules of the records, or defaults.
        key: of its executable in the cache.
    """

    name: str
    module: bytes
    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    seconds: float = 0.0
    key: str = ""


@dataclass(frozen=True)
class Order:
    """A part that is to be compiled, and the object that receives its executables.

    Attributes:
        request: the part.
        part: receives its executables.
        spent: seconds of tuning that earlier runs have spent on it; None: it has no executable yet.
        step: equal for the parts of a step, which are enqueued in the order in which the step runs them.
    """

    request: Request
    part: LivePart
    spent: float | None = None
    step: object = None


@dataclass(frozen=True)
class Prepared:
    """A part whose executable is ready.

    Attributes:
        key: of the part, as in its request.
        out: the directory of its executable, which has run once.
        tasks: the number of its tasks.
        tuned: how many of them run with another schedule than their default.
        trials: how many candidates were measured.
        checked: whether its results were compared with those of the part's former executable.
        notes: messages about problems with the records, or with the cache.
        kernels: what each of its kernels computes, by the name of the kernel.
    """

    key: str
    out: Path
    tasks: int
    tuned: int
    trials: int
    checked: bool = False
    notes: tuple[str, ...] = ()
    kernels: Mapping[str, KernelTask] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """A part with variants of its kernels.

    Attributes:
        key: of the part.
        out: the directory of an executable that computes the same as the former one, and holds the variants.
        variants: by the name of a kernel, the names of its variants, itself first. Each was run, and is right.
        expected: by the name of a variant, how many times as long as its kernel it took there.
    """

    key: str
    out: Path
    variants: Mapping[str, Sequence[str]]
    expected: Mapping[str, float] = field(default_factory=dict)
