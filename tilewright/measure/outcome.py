"""What became of one candidate: a measurement. A failure is data, as a latency is."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

__all__ = ["Measurement", "Outcome", "robust_seconds"]


class Outcome(enum.Enum):
    """How the build and run of one candidate ended. The value is what the records store."""

    OK = "ok"
    INVALID = "invalid"  # the space refused the config, or scheduling it failed
    BUILD_FAILED = "build_failed"
    BUILD_TIMED_OUT = "build_timed_out"
    RUN_CRASHED = "run_crashed"
    RUN_TIMED_OUT = "run_timed_out"
    WRONG_RESULT = "wrong_result"

    @property
    def doubtful(self) -> bool:
        """Whether something else than the candidate may be to blame: its worker may have been killed.

        A time-out is not doubtful: what hangs would hang again, and take its seconds twice.
        """
        return self in (Outcome.BUILD_FAILED, Outcome.RUN_CRASHED)


#: The quantile over repeats that stands for a candidate. Other programs on the machine only ever add time, so a low
#: quantile estimates the undisturbed latency. The minimum would reward a single lucky reading.
ROBUST_QUANTILE = 0.2


def robust_seconds(repeats: tuple[float, ...]) -> float:
    """The latency that stands for some repeats, in seconds: their 0.2-quantile; nan if there are none."""
    if not repeats:
        return math.nan
    # The same to the last bit as numpy.quantile, and a hundred times as fast: stores ask for it with every measurement.
    ordered = sorted(repeats)
    place = ROBUST_QUANTILE * (len(ordered) - 1)
    below, above = ordered[int(place)], ordered[min(int(place) + 1, len(ordered) - 1)]
    part, between = place - int(place), above - below
    return float(below + between * part if part < 0.5 else above - between * (1 - part))


@dataclass(frozen=True)
class Measurement:
    """One measured candidate.

    Attributes:
        task: ``Task.key``.
        target: ``Target.key``, which names the machine.
        template: version of the template that the config belongs to, such as ``contraction/1``.
        config: the config's row, one index per knob.
        outcome: how the build and run ended.
        repeats: latency of each repeat in seconds; empty on failure; a single one if the candidate was dropped after
            its first run.
        message: what went wrong; empty if nothing did.
        time: POSIX time of the measurement in seconds.
        elapsed: wall-clock seconds spent on building and timing it.
        anchor: how fast the machine was at that moment: latency in seconds of the task's default config, the lowest of
            its readings before, between and after the candidates of the batch. 0: not known. Records do not keep it.
    """

    task: str
    target: str
    template: str
    config: tuple[int, ...]
    outcome: Outcome
    repeats: tuple[float, ...] = ()
    message: str = ""
    time: float = 0.0
    elapsed: float = 0.0
    anchor: float = field(default=0.0, compare=False)

    @property
    def ok(self) -> bool:
        """Whether there is a latency."""
        return self.outcome is Outcome.OK

    @property
    def seconds(self) -> float:
        """The latency that stands for the repeats, in seconds; nan on failure."""
        return robust_seconds(self.repeats) if self.ok else math.nan
