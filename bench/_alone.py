"""One arm that trains alone: how even its steps are, when it overtakes another one, and how much memory it has."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench._training_steps import Steps
from tilewright.measure.peer_process import PeerProcess

__all__ = [
    "Alone",
    "describe_memory",
    "describe_steps",
    "find_full_speed",
    "find_overtaking",
    "find_regular",
    "train_alone",
]

#: The first steps, in which PyTorch traces the network. They are no slow steps of Tilewright's.
_TRACING = 2
#: Steps before and after a step that it is compared with: steps become shorter while a network is tuned.
_AROUND = 8
#: Seconds of the first minute.
_MINUTE = 60.0
#: A step is as fast as others if it takes at most this multiple of their median.
_AS_FAST = 1.1


@dataclass(frozen=True)
class Alone:
    """A training with one arm.

    Attributes:
        ends: of its steps, in seconds from the beginning of the first one.
        peak: the most memory that its process had, in bytes. Processes that compile are others.
    """

    ends: Sequence[float]
    peak: int


def train_alone(name: str, arm: str, seconds: float, threads: int, options: Mapping[str, Any]) -> Alone:
    """Train a network for some seconds.

    Args:
        name: of the network.
        arm: one of :data:`bench._training_steps.ARMS`.
        seconds: after which no step begins.
        threads: on which it trains.
        options: of Tilewright's backend.
    """
    process = PeerProcess(threads)
    try:
        process.start(Steps, (name, arm, threads, dict(options)))
        return Alone(list(process.call("run", seconds)), int(process.call("find_peak")))
    finally:
        process.kill()


def find_overtaking(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The seconds after which more steps were taken than the other arm took, for good; None if that did not come.

    Args:
        ours: the ends of the steps.
        theirs: those of the other arm. What it would have done after its last one is its median step.
    """
    regular = find_regular(theirs)
    overtaken: float | None = None
    for count, end in enumerate(ours, 1):
        other = bisect.bisect_right(theirs, end)
        if other == len(theirs):
            other += int((end - theirs[-1]) / regular)
        overtaken = (end if overtaken is None else overtaken) if count > other else None
    return overtaken


def find_regular(ends: Sequence[float]) -> float:
    """The usual seconds of a step, once steps are regular: the median of the later half."""
    return float(np.median(np.diff([0.0, *ends])[len(ends) // 2 :]))


def find_full_speed(again: Sequence[float], before: Sequence[float]) -> float | None:
    """The seconds until a training is as fast as an earlier one in its last minute; None if it never is.

    Args:
        again: the ends of the steps of the training.
        before: those of the earlier one.
    """
    ends = np.asarray([0.0, *before])
    usual = float(np.median(np.diff(ends)[ends[1:] >= ends[-1] - _MINUTE]))
    spans = np.diff([0.0, *again])
    fast = np.flatnonzero(spans <= _AS_FAST * usual)
    return float(again[fast[0]] - spans[fast[0]]) if len(fast) else None


def describe_steps(ours: Sequence[float], eager: Sequence[float]) -> dict[str, float]:
    """How even steps are, and what tuning costs at first. Steps in which PyTorch traces the network are left out.

    Args:
        ours: the ends of the steps.
        eager: those of eager PyTorch.
    """
    spans = np.diff([0.0, *ours])[min(_TRACING, len(ours) - 1) :]
    ends = np.asarray(ours)[-len(spans) :]
    around = [np.median(spans[max(0, place - _AROUND) : place + _AROUND + 1]) for place in range(len(spans))]
    first = spans[ends <= ends[0] + _MINUTE]
    return {
        "slowest_step": float(spans.max() / np.median(spans)),
        "slowest_step_around": float((spans / around).max()),
        "first_minute_lost": float(first.mean() / find_regular(eager) - 1.0),
    }


def describe_memory(alone: Mapping[str, Alone], eager: str) -> dict[str, Any]:
    """The peak memory of each arm, and as a multiple of eager PyTorch's.

    Args:
        alone: the arms by their names, ``tilewright`` and ``again`` among them.
        eager: the name of the arm of eager PyTorch.
    """
    return {
        "peak_bytes": {arm: each.peak for arm, each in alone.items()},
        "peak_memory": alone["tilewright"].peak / alone[eager].peak,
        "peak_memory_again": alone["again"].peak / alone[eager].peak,
    }
