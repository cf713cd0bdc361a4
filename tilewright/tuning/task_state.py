"""What the scheduler knows of one task: a state that only the scheduler writes, and snapshots for everybody else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tilewright.task import Task
from tilewright.tuning.learning_curve import expected_saving
from tilewright.tuning.report import TaskReport
from tilewright.tuning.tuner import RoundResult, TaskTuner

__all__ = ["TaskSnapshot", "TaskState", "TaskUse"]

#: A smaller improvement of the latency (as a share of it) is noise.
_NOTEWORTHY = 0.01
#: Rounds in a row without a working candidate after which a task gets no more.
_MOST_FAILING = 3
#: Rounds over which a task's seconds per trial are averaged.
_WINDOW = 3
#: Expected savings that weigh as much as a task's own past does, when its learning curve is judged.
_PATIENCE = 0.3
#: Working trials that are assumed before any was made, when the share of failures is estimated.
_ASSUMED_WORKING = 4.0
#: Candidates that a later round has at least: the first few bring most.
_LEAST_ROUND = 8


class TaskUse(Protocol):
    """A task, and how often its network calls it: what the scheduler needs of ``tilewright.graph.tasks.TaskUse``.

    It is a protocol, so that tasks without a network can be tuned, too.
    """

    @property
    def task(self) -> Task:  # noqa: D102 - described by the class
        ...
    @property
    def weight(self) -> float:  # noqa: D102 - described by the class
        ...


@dataclass(frozen=True)
class TaskSnapshot:
    """A task at one moment of the tuning: what rules of scheduling decide by.

    Attributes:
        kind: of the task; see :class:`tilewright.task.Task`.
        flop: floating-point operations of one call.
        weight: how often the network calls it.
        best: its best latency in seconds; inf: none.
        possible: the latency in seconds that the machine's roofline allows; 0: not known.
        trials: candidates that this tuning measured.
        failed: those of them that failed.
        recorded: measurements that were in the store before.
        rounds: its results, the earliest first.
        rounds_without_gain: since it last improved.
        expected_gain: the shares of its latency that its rounds were expected to save, summed up.
        gained: the shares that they did save, summed up as logarithms.
    """

    kind: str = "auto"
    flop: float = 0.0
    weight: float = 1
    best: float = math.inf
    possible: float = 0.0
    trials: int = 0
    failed: int = 0
    recorded: int = 0
    rounds: tuple[RoundResult, ...] = ()
    rounds_without_gain: int = 0
    expected_gain: float = 0.0
    gained: float = 0.0

    @property
    def measured(self) -> int:
        """How many measurements of it are known, recorded ones too."""
        return self.trials + self.recorded

    @property
    def seconds_per_trial(self) -> float | None:
        """Seconds that a trial of its last rounds took; None where they had none."""
        recent = self.rounds[-_WINDOW:]
        trials = sum(len(r.measurements) for r in recent)
        return max(sum(r.seconds for r in recent) / trials, 1e-3) if trials else None

    def round_size(self, most: int) -> int:
        """How many candidates its next round has: as many as were measured so far, but 8 to ``most``."""
        return min(most, max(_LEAST_ROUND, self.measured))

    def improvement(self, trials: int, limit: float = 1.0) -> float:
        """The share of its latency that ``trials`` more candidates are expected to save.

        The mean learning curve is scaled by how far the task's own rounds exceeded it or fell short of it. Candidates
        that will fail, by the share that failed so far, do not count. Nothing is expected beyond the roofline.

        Args:
            trials: the number of candidates.
            limit: a factor on ``possible``, below 1 where other tasks ran faster than their rooflines allow.
        """
        working = trials * (_ASSUMED_WORKING + self.trials - self.failed) / (_ASSUMED_WORKING + self.trials)
        own = (_PATIENCE + self.gained) / (_PATIENCE + self.expected_gain)
        expected = own * expected_saving(self.measured, working)
        if math.isfinite(self.best):
            expected = min(expected, max(0.0, 1.0 - self.possible * limit / self.best))
        return expected


@dataclass
class TaskState:
    """One task while its network is tuned. Only :class:`~tilewright.tuning.scheduler.NetworkTuner` writes to it.

    Attributes:
        use: the task and how often it occurs.
        rng: its own source of randomness.
        tuner: the tuner of its design space; None until the space was made.
        problem: why it has no usable design space; empty: it has one.
        possible: the latency in seconds that the machine's roofline allows; 0: not known.
        touched: bytes that a call reads or writes, each once; 0: not known.
        instruction: for dot products, which its programs use, or ``plain code``; empty: it has no such products.
        rounds: their results, the earliest first.
        rounds_without_gain: since it last improved.
        failing: rounds since a candidate worked.
        expected_gain: the shares of its latency that its rounds were expected to save, summed up.
        gained: the shares that they did save, summed up as logarithms.
        done: whether more rounds are not worth their time.
    """

    use: TaskUse
    rng: np.random.Generator
    tuner: TaskTuner | None = None
    problem: str = ""
    possible: float = 0.0
    touched: float = 0.0
    instruction: str = ""
    rounds: list[RoundResult] = field(default_factory=list)
    rounds_without_gain: int = 0
    failing: int = 0
    expected_gain: float = 0.0
    gained: float = 0.0
    done: bool = False

    @property
    def key(self) -> str:
        """``Task.key`` of its task."""
        return self.use.task.key

    @property
    def best(self) -> float:
        """Its best latency in seconds; inf: none."""
        return math.inf if self.tuner is None else self.tuner.best_seconds

    @property
    def live(self) -> bool:
        """Whether another round may improve it."""
        usable = self.tuner is not None and not self.tuner.exhausted and not self.problem
        return usable and self.failing < _MOST_FAILING and not self.done

    @property
    def measured(self) -> int:
        """How many measurements of it are known, recorded ones too."""
        return 0 if self.tuner is None else self.tuner.trials + self.tuner.recorded

    def note(self, result: RoundResult) -> None:
        """Take a round into account, of which ``tuner`` knows already."""
        self.rounds.append(result)
        self.failing = 0 if any(m.ok for m in result.measurements) else self.failing + 1
        improved = result.after < result.before * (1.0 - _NOTEWORTHY)
        self.rounds_without_gain = 0 if improved else self.rounds_without_gain + 1
        if math.isfinite(result.before):
            trials = len(result.measurements)
            self.expected_gain += expected_saving(self.measured - trials, trials)
            self.gained += max(0.0, math.log(result.before / result.after))

    def snapshot(self) -> TaskSnapshot:
        """The task as it is now."""
        task, tuner = self.use.task, self.tuner
        return TaskSnapshot(
            kind=task.kind,
            flop=task.flop,
            weight=self.use.weight,
            best=self.best,
            possible=self.possible,
            trials=0 if tuner is None else tuner.trials,
            failed=0 if tuner is None else sum(tuner.failures.values()),
            recorded=0 if tuner is None else tuner.recorded,
            rounds=tuple(self.rounds),
            rounds_without_gain=self.rounds_without_gain,
            expected_gain=self.expected_gain,
            gained=self.gained,
        )

    def report(self) -> TaskReport:
        """The task's part of the report."""
        task, tuner = self.use.task, self.tuner
        failures = {} if tuner is None else {outcome.value: count for outcome, count in tuner.failures.items()}
        return TaskReport(
            name=task.name,
            kind=task.kind,
            key=task.key,
            weight=self.use.weight,
            flop=task.flop,
            best_seconds=self.best if math.isfinite(self.best) else None,
            possible_seconds=self.possible or None,
            touched_bytes=self.touched or None,
            trials=0 if tuner is None else tuner.trials,
            recorded=0 if tuner is None else tuner.recorded,
            rounds=len(self.rounds),
            failures=dict(sorted(failures.items())),
            exhausted=tuner is not None and tuner.exhausted,
            done=self.done,
            problem=self.problem,
            instruction=self.instruction,
        )
