"""What another round of a task promises the network: Ansor's task scheduler (Zheng et al., OSDI 2020, section 6).

With g the best latency of a task, t its rounds so far, C its floating-point operations and V the best speed of any
task of its kind, the expected reduction in one round is

    alpha * (what its last rounds gave, per round) + (1 - alpha) * max(g / t, g - beta * C / V)

The second term is optimism: that one more round reduces g by its t-th part, or that the task comes within beta of the
speed its like have reached. Different from Ansor: the reduction is divided by the seconds that a round of the task
takes, and optimism by the number of rounds since the task last improved. Otherwise a task that is bound by memory and
never gets near its like would have all rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tilewright.task import Task
from tilewright.tuning.tuner import RoundResult, TaskTuner

__all__ = ["Share", "TaskUse", "gains"]

#: Ansor's alpha, beta and window (rounds).
_ALPHA, _BETA, _WINDOW = 0.2, 2.0, 3
#: An improvement by less is noise.
_NOTEWORTHY = 0.01
#: A task gets no more after so many rounds in a row in which nothing worked.
_MOST_FAILING = 3


class TaskUse(Protocol):
    """A task of the network, and how often it occurs."""

    @property
    def task(self) -> Task:  # noqa: D102 - described by the class
        ...
    @property
    def weight(self) -> int:  # noqa: D102 - described by the class
        ...


@dataclass
class Share:
    """One task's part in the tuning.

    Attributes:
        use: the task and how often it occurs.
        rng: its own source of randomness.
        tuner: once its design space was made.
        problem: why it has no usable design space; empty: it has one.
        rounds: what they brought.
        dry: rounds since it last improved.
        failing: rounds since anything worked.
        leverage: by how much more than itself the network gains from it, as other tasks borrow its best configs.
        experience: measurements of another task that count like its own, since its best configs work here.
        promise: the share of its latency that borrowing promises, for as many trials as a round has.
    """

    use: TaskUse
    rng: np.random.Generator
    tuner: TaskTuner | None = None
    problem: str = ""
    rounds: list[RoundResult] = field(default_factory=list)
    dry: int = 0
    failing: int = 0
    leverage: float = 1.0
    experience: float = 0.0
    promise: float = 0.0

    @property
    def best(self) -> float:
        """Its best latency in seconds; inf: none."""
        return math.inf if self.tuner is None else self.tuner.best_seconds

    @property
    def live(self) -> bool:
        """Whether another round may bring something."""
        usable = self.tuner is not None and not self.tuner.exhausted and not self.problem
        return usable and self.failing < _MOST_FAILING

    @property
    def measured(self) -> int:
        """How many measurements of it are known, old ones too."""
        return 0 if self.tuner is None else self.tuner.trials + self.tuner.recorded

    def note(self, result: RoundResult) -> None:
        """Take a round into account."""
        self.rounds.append(result)
        self.failing = 0 if any(m.ok for m in result.measurements) else self.failing + 1
        improved = result.after < result.before * (1.0 - _NOTEWORTHY)
        self.dry = 0 if improved else self.dry + 1

    def seconds_per_trial(self) -> float | None:
        """Of its last rounds; None where they had no trials."""
        recent = self.rounds[-_WINDOW:]
        trials = sum(len(r.measurements) for r in recent)
        return max(sum(r.seconds for r in recent) / trials, 1e-3) if trials else None

    def describe(self) -> dict[str, Any]:
        """For the report: seconds, and None for what is not known."""
        task, tuner = self.use.task, self.tuner
        failures = {} if tuner is None else {outcome.value: count for outcome, count in tuner.failures.items()}
        return {
            "name": task.name,
            "kind": task.kind,
            "key": task.key,
            "weight": self.use.weight,
            "flop": task.flop,
            "best_seconds": self.best if math.isfinite(self.best) else None,
            "trials": 0 if tuner is None else tuner.trials,
            "recorded": 0 if tuner is None else tuner.recorded,
            "rounds": len(self.rounds),
            "failures": dict(sorted(failures.items())),
            "exhausted": tuner is not None and tuner.exhausted,
            "problem": self.problem,
        }


def gains(live: Sequence[Share], shares: Sequence[Share], round_size: int) -> list[float]:
    """What a round of each of the ``live`` tasks promises: seconds of the network's latency per second.

    Args:
        live: the tasks to choose from, at least one.
        shares: all tasks, whose speeds are compared with.
        round_size: candidates per round.
    """
    speeds: dict[str, float] = {}
    for share in shares:
        kind = share.use.task.kind
        speeds[kind] = max(speeds.get(kind, 0.0), share.use.task.flop / share.best)
    # A task without any latency is taken for one of middling weight: the network needs an answer for it.
    finite = [share.best for share in shares if math.isfinite(share.best)]
    typical = float(np.median(finite)) if finite else 1.0
    known = [seconds for seconds in (share.seconds_per_trial() for share in shares) if seconds is not None]
    usual = sum(known) / len(known) if known else 1.0
    found = []
    for share in live:
        best = share.best if math.isfinite(share.best) else typical
        backward = 0.0
        recent = [result for result in share.rounds[-_WINDOW:] if math.isfinite(result.before)]
        if recent:
            backward = max(0.0, recent[0].before - recent[-1].after) / len(recent)
        optimism = best / max(1.0, (share.measured + share.experience) / round_size)
        if speeds[share.use.task.kind] > 0.0:
            optimism = max(optimism, best - _BETA * share.use.task.flop / speeds[share.use.task.kind])
        ahead = max((1.0 - _ALPHA) * optimism / (1.0 + share.dry), (1.0 - _ALPHA) * best * share.promise)
        expected = _ALPHA * backward + ahead
        found.append(share.leverage * share.use.weight * expected / (share.seconds_per_trial() or usual))
    return found
