"""What another round of a task promises the network, in seconds of its latency per second of tuning.

:func:`learning_gains` is Tilewright's rule, :func:`ansor_gains` the published one that it is compared with
(``bench.scheduling``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

from tilewright.task import Task
from tilewright.tuning.tuner import RoundResult, TaskTuner

__all__ = ["Rule", "Share", "TaskUse", "ansor_gains", "learning_gains"]

#: Ansor's alpha, beta and window (rounds).
_ALPHA, _BETA, _WINDOW = 0.2, 2.0, 3
#: An improvement by less is noise.
_NOTEWORTHY = 0.01
#: A task gets no more after so many rounds in a row in which nothing worked.
_MOST_FAILING = 3
#: After n trials a task is slower than it can be by _GAP / n ** _DECAY, on average over the recorded tables.
_GAP, _DECAY = 0.28, 0.8
#: So much expected improvement counts as much as what was seen, when a task's own curve is judged.
_PATIENCE = 0.3
#: Trials that worked and are assumed beforehand.
_WORKING = 4.0
#: What the fastest task reaches of its limit must leave room for a little more.
_MARGIN = 1.05
#: A round is no larger than what is known of its task, or than this: the first few candidates bring most.
_LEAST_ROUND = 8
#: A task that promises less than this share of its latency by a round is done.
_DONE = 2e-5


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
        possible: the latency in seconds that the machine allows at best; 0: not known.
        rounds: what they brought.
        dry: rounds since it last improved.
        failing: rounds since anything worked.
        hoped: by what share its rounds were expected to make it faster, summed up.
        gained: by what share they did.
        done: whether more rounds are not worth their time.
        leverage: by how much more than itself the network gains from it, as other tasks borrow its best configs.
        experience: measurements of another task that count like its own, since its best configs work here.
        promise: the share of its latency that borrowing promises, for as many trials as a round has at most.
    """

    use: TaskUse
    rng: np.random.Generator
    tuner: TaskTuner | None = None
    problem: str = ""
    possible: float = 0.0
    rounds: list[RoundResult] = field(default_factory=list)
    dry: int = 0
    failing: int = 0
    hoped: float = 0.0
    gained: float = 0.0
    done: bool = False
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
        return usable and self.failing < _MOST_FAILING and not self.done

    @property
    def measured(self) -> int:
        """How many measurements of it are known, old ones too."""
        return 0 if self.tuner is None else self.tuner.trials + self.tuner.recorded

    def note(self, result: RoundResult) -> None:
        """Take a round into account, of which ``tuner`` knows already."""
        self.rounds.append(result)
        self.failing = 0 if any(m.ok for m in result.measurements) else self.failing + 1
        improved = result.after < result.before * (1.0 - _NOTEWORTHY)
        self.dry = 0 if improved else self.dry + 1
        if math.isfinite(result.before):
            trials = len(result.measurements)
            self.hoped += _expected(self.measured - trials + self.experience, trials)
            self.gained += max(0.0, math.log(result.before / result.after))

    def round_size(self, most: int) -> int:
        """How many candidates its next round has: as many as were measured so far, within bounds."""
        return min(most, max(_LEAST_ROUND, self.measured))

    def seconds_per_trial(self) -> float | None:
        """Of its last rounds; None where they had no trials."""
        recent = self.rounds[-_WINDOW:]
        trials = sum(len(r.measurements) for r in recent)
        return max(sum(r.seconds for r in recent) / trials, 1e-3) if trials else None

    def improvement(self, trials: int, limit: float = 1.0) -> float:
        """The share of its latency that so many more trials are expected to save.

        Args:
            trials: how many.
            limit: what ``possible`` is to be multiplied with, since other tasks passed their limits.
        """
        tuner = self.tuner
        tried = 0 if tuner is None else tuner.trials
        failed = 0 if tuner is None else sum(tuner.failures.values())
        working = trials * (_WORKING + tried - failed) / (_WORKING + tried)
        own = (_PATIENCE + self.gained) / (_PATIENCE + self.hoped)
        expected = own * _expected(self.measured + self.experience, working)
        if math.isfinite(self.best):
            expected = min(expected, max(0.0, 1.0 - self.possible * limit / self.best))
        return expected

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
            "possible_seconds": self.possible or None,
            "trials": 0 if tuner is None else tuner.trials,
            "recorded": 0 if tuner is None else tuner.recorded,
            "rounds": len(self.rounds),
            "failures": dict(sorted(failures.items())),
            "exhausted": tuner is not None and tuner.exhausted,
            "done": self.done,
            "problem": self.problem,
        }


#: Rates the ``live`` tasks, at least one, out of all ``shares``, for a round of so many candidates.
Rule: TypeAlias = Callable[[Sequence[Share], Sequence[Share], int], list[float]]


def learning_gains(live: Sequence[Share], shares: Sequence[Share], round_size: int) -> list[float]:
    """By learning curves: what trials gave elsewhere, corrected by what they gave here, within what is possible.

    After n trials a task is expected to be G / n^d slower than it can be, by the mean over recorded tasks. How far its
    own rounds have fallen short of that, or exceeded it, scales what is expected of the next. Candidates that fail do
    not count, and nothing is expected beyond the machine's roofline. Tasks of which next to nothing is expected are
    marked as done.

    Args:
        live: the tasks to choose from, at least one.
        shares: all tasks.
        round_size: candidates per round, at most.
    """
    typical, usual = _typical(shares)
    # Measured beside a noisy neighbour the machine's limits may be too low, and not all operations counted be needed.
    limit = 1.0 / max([1.0, *(_MARGIN * share.possible / share.best for share in shares)])
    found = []
    for share in live:
        best = share.best if math.isfinite(share.best) else typical
        size = share.round_size(round_size)
        expected = max(share.improvement(size, limit), share.promise * size / round_size)
        share.done = expected < _DONE
        seconds = size * (share.seconds_per_trial() or usual)
        found.append(share.leverage * share.use.weight * best * expected / seconds)
    return found


def ansor_gains(live: Sequence[Share], shares: Sequence[Share], round_size: int) -> list[float]:
    """Ansor's task scheduler (Zheng et al., OSDI 2020, section 6).

    With g the best latency of a task, t its rounds so far, C its floating-point operations and V the best speed of any
    task of its kind, the expected reduction in one round is

        alpha * (what its last rounds gave, per round) + (1 - alpha) * max(g / t, g - beta * C / V)

    The second term is optimism: that one more round reduces g by its t-th part, or that the task comes within beta of
    the speed its like have reached. Different from Ansor: the reduction is divided by the seconds that a round of the
    task takes, and optimism by the number of rounds since the task last improved. Otherwise a task that is bound by
    memory and never gets near its like would have all rounds.

    Args:
        live: the tasks to choose from, at least one.
        shares: all tasks, whose speeds are compared with.
        round_size: candidates per round.
    """
    speeds: dict[str, float] = {}
    for share in shares:
        kind = share.use.task.kind
        speeds[kind] = max(speeds.get(kind, 0.0), share.use.task.flop / share.best)
    typical, usual = _typical(shares)
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


def _typical(shares: Sequence[Share]) -> tuple[float, float]:
    """The latency of a task that has none yet, and the seconds per trial of one that had none.

    A task without any latency is taken for one of middling weight: the network needs an answer for it.
    """
    finite = [share.best for share in shares if math.isfinite(share.best)]
    known = [seconds for seconds in (share.seconds_per_trial() for share in shares) if seconds is not None]
    return float(np.median(finite)) if finite else 1.0, sum(known) / len(known) if known else 1.0


def _expected(measured: float, trials: float) -> float:
    """The share of its latency that a usual task saves by ``trials`` more than the ``measured`` ones."""
    known = max(1.0, measured)
    return float(_GAP * (known**-_DECAY - (known + trials) ** -_DECAY))
