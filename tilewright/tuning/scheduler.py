"""Tuning a network: whose turn it is to use the next seconds of the budget.

First every task has a small round, those with the most arithmetic first, so that there is a usable answer early. Then
each round goes to the task that promises the largest reduction of the network's latency per second
(:mod:`tilewright.tuning.gain`). There is no first round of 64 per task, which for SqueezeNet alone would be more than
five minutes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from tilewright.errors import SpaceError
from tilewright.measure.runner import Runner
from tilewright.methods.default import default
from tilewright.methods.method import Method
from tilewright.records.store import Store
from tilewright.share.policy import Sharing
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.budget import RunningBudget
from tilewright.tuning.gain import Rule, Share, TaskUse, learning_gains
from tilewright.tuning.progress import Progress, SilentProgress, TuneState
from tilewright.tuning.roofline import Roofline
from tilewright.tuning.sharing import Lending
from tilewright.tuning.tuner import TaskTuner
from tilewright.wording import counted

__all__ = ["NetworkTuner", "TaskUse"]

#: The share of rounds that go to any task at random, against a gain that was misjudged.
_EPSILON = 0.05
#: The first pass may use this share of the time that is left, if that leaves each task 2 candidates.
_FIRST_PASS_SHARE = 0.4
#: Candidates of a task's first round.
_FIRST = 4
#: Tasks that by the roofline need less than this share of the mean task's time have their default measured in the
#: first pass, and no more: by the learning curve of :mod:`tilewright.tuning.gain` three more of their trials bring less
#: than a later round of a heavy one. Where the default is slow, they have their turn by what they promise.
_LIGHT = 0.25
#: The share of the budget for the design spaces of earlier networks.
_ASKING_SHARE = 0.05
#: Seconds that making design spaces may take although the budget ends before, for what records hold is read with them.
_LEAST_PREPARING = 10.0
#: The share of the budget for racing the best of each task against each other.
_RACE_SHARE = 0.05


class NetworkTuner:
    """Spends a budget on the tasks of a network.

    Measurements reach the store as :class:`tilewright.tuning.tuner.TaskTuner` describes: through the runner.

    Args:
        uses: the tasks, no two of one key, and how often each occurs.
        target: what is tuned for.
        runner: measures.
        store: earlier measurements.
        budget: what may be spent. ``trials`` are counted on it.
        rng: the only source of randomness.
        method: how tasks are searched; by default :func:`tilewright.methods.default.default`.
        make_space: makes the design space of a task; by default ``tilewright.ops.registry.make_space``.
        progress: is shown how it goes; entered and left by the caller.
        first_round: candidates per task in the first pass; by default 4.
        round_size: candidates per round afterwards, at most; see ``Share.round_size``.
        sharing: what tasks borrow from each other and from earlier networks; None: nothing.
        rule: who promises what.
        roofline: of the machine; None: not known.
        task_trials: the most trials of one task; None: no limit.

    Attributes:
        interrupted: whether a KeyboardInterrupt ended the tuning.
        curve: seconds since the budget's start and the estimated latency of the network, where it changed.
        remeasured: measurements of the final race, which are no trials.
    """

    def __init__(
        self,
        uses: Sequence[TaskUse],
        target: Target,
        runner: Runner,
        store: Store,
        budget: RunningBudget,
        rng: np.random.Generator,
        *,
        method: Method | None = None,
        make_space: Callable[[Task, Target], DesignSpace] | None = None,
        progress: Progress | None = None,
        first_round: int | None = None,
        round_size: int = 16,
        sharing: Sharing | None = None,
        rule: Rule = learning_gains,
        roofline: Roofline | None = None,
        task_trials: int | None = None,
    ) -> None:
        self.interrupted = False
        self.curve: list[tuple[float, float]] = []
        self.remeasured = 0
        self._target, self._runner, self._store = target, runner, store
        self._budget, self._rng = budget, rng
        self._method = default() if method is None else method
        if sharing is not None and sharing.model and self._method.shared is not None:
            self._method = self._method.shared(int(rng.integers(1 << 31)))
        self._make_space = make_space
        self._check_recorded = make_space is None  # whoever makes spaces of their own knows their own records
        self._progress: Progress = SilentProgress() if progress is None else progress
        self._first_round = first_round or _FIRST
        self._round_size = round_size
        self._sharing = sharing
        self._rule, self._roofline, self._task_trials = rule, roofline, math.inf if task_trials is None else task_trials
        self._lending: Lending | None = None
        # A stream per task, so that the order of their rounds does not change what each one proposes.
        streams = rng.spawn(len(uses))
        self._shares = [Share(use, stream) for use, stream in zip(uses, streams, strict=True)]
        # Those with the most arithmetic first; the sort is stable.
        self._order = sorted(self._shares, key=lambda share: -share.use.weight * share.use.task.flop)
        self._began = budget.elapsed
        self._ended: float | None = None

    @property
    def tuners(self) -> dict[str, TaskTuner]:
        """The tuner of each task that has a design space, by ``Task.key``."""
        return {share.use.task.key: share.tuner for share in self._shares if share.tuner is not None}

    @property
    def trials(self) -> int:
        """How many candidates were measured."""
        return sum(tuner.trials for tuner in self.tuners.values())

    @property
    def failures(self) -> dict[str, int]:
        """How many of them failed, by the outcome's name."""
        total: Counter[str] = Counter()
        for tuner in self.tuners.values():
            total.update({outcome.value: count for outcome, count in tuner.failures.items()})
        return dict(sorted(total.items()))

    @property
    def trials_per_second(self) -> float:
        """Of the time from the start of tuning (when workers start, too) to its end."""
        spent = (self._budget.elapsed if self._ended is None else self._ended) - self._began
        return self.trials / spent if spent > 0 else 0.0

    @property
    def estimated_latency(self) -> float | None:
        """The sum of weight x best in seconds; None while a task that may still get one has no latency.

        A task for which nothing worked and which gets no more rounds is left out; ``report`` counts those.
        """
        if not self._shares or any(math.isinf(share.best) and self._pending(share) for share in self._shares):
            return None
        known = [share for share in self._shares if math.isfinite(share.best)]
        return sum(share.use.weight * share.best for share in known) if known else None

    def prepare(self, reserve: float = 0.0) -> None:
        """Make the design spaces and learn what the store knows of them. Done by :meth:`run`; may be called before.

        Args:
            reserve: seconds of the budget to leave for what comes after. A task whose turn comes later, and after 10 s
                of making spaces, is not tuned.
        """
        until = self._budget.elapsed + max(_LEAST_PREPARING, self._budget.remaining_seconds - reserve)
        for share in self._order:
            if share.tuner is None and not share.problem:
                if self._budget.elapsed >= until:
                    share.problem = "the budget left no time to make its design space; give a larger budget"
                    continue
                try:
                    space = self._space(share.use.task)
                except SpaceError as error:
                    share.problem = str(error)
                    continue
                share.tuner = TaskTuner(
                    space,
                    self._target,
                    self._runner,
                    self._store,
                    share.rng,
                    self._method,
                    clock=lambda: self._budget.elapsed,
                )
                if self._roofline is not None:
                    share.possible = self._roofline.possible(space)
        # Comparing tasks takes seconds where there are hundreds, and brings nothing where none is measured any more.
        if self._sharing is not None and self._lending is None and self._budget.remaining_seconds > 0.0:
            seconds = min(self._sharing.seconds, _ASKING_SHARE * self._budget.remaining_seconds)
            sharing = replace(self._sharing, seconds=seconds)
            self._lending = Lending(
                sharing,
                self._order,
                self._store,
                self._target,
                self._earlier_space,
                lambda: self._budget.elapsed,
                self._method.models,
            )
            # Representatives first; the sort is stable.
            self._order.sort(key=self._lending.borrows)
        self._note_latency()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A KeyboardInterrupt in this block ends it and the tuning, and is no error; a second one is."""
        try:
            yield
        except KeyboardInterrupt:
            if self.interrupted:
                raise
            self.interrupted = True

    def plan(self) -> list[str]:
        """What is going to be done, in a few lines for people. After :meth:`prepare`."""
        known = sum(share.measured > 0 for share in self._shares)
        without = sum(bool(share.problem) for share in self._shares)
        first = counted(len(self._shares), "task")
        if known:
            first += f", {known} of them measured already"
        if without:
            first += f", {without} without a design space, built by TVM without tuning"
        return [first, *([] if self._lending is None else self._lending.plan())]

    def run(self, reserve: float = 0.0, race: int = 3) -> None:
        """Tune until the budget is spent, nothing promises anything any more, or the user interrupts or has done so.

        Args:
            reserve: seconds of the budget to leave for what comes after.
            race: how many of a task's best are measured once more at the end, in at most 5 % of the budget
                (without a time limit: of the trials); 0: none.

        Raises:
            MeasureError: the runner cannot work.
            RecordsError: the store cannot be used.
        """
        seconds = self._budget.budget.seconds
        racing = _RACE_SHARE * seconds if race > 0 and seconds is not None else 0.0
        try:
            with self.interruptible():
                self.prepare(reserve + racing)
                if self.interrupted:
                    return
                self._first_pass(reserve + racing)
                while not self._budget.exhausted(reserve + racing):
                    share = self._next(reserve + racing)
                    if share is None:
                        break
                    self._round(share, share.round_size(self._round_size), reserve + racing)
                if race > 0:
                    self.race(race, reserve)
        finally:
            self._ended = self._budget.elapsed
            self._update("")

    def finalists(self, key: str, count: int = 3) -> Configs:
        """``(n, knobs)``: the fastest few configs of a task (by ``Task.key``), fastest first. Raises ``KeyError``."""
        return self.tuners[key].finalists(count, math.inf)

    def race(self, count: int = 3, reserve: float = 0.0) -> None:
        """Measure the few best of each task once more, the heaviest tasks first, and decide by all repeats.

        Stops at the budget's deadline less ``reserve``, or without a time limit after 5 % of the trials.
        """
        limit = math.inf if self._budget.budget.seconds is not None else _RACE_SHARE * self.trials
        ran = [share for share in self._shares if share.tuner is not None and math.isfinite(share.best)]
        for share in sorted(ran, key=lambda share: -share.use.weight * share.best):
            assert share.tuner is not None
            if self._budget.remaining_seconds <= reserve or self.remeasured + count > limit:
                return
            self._update(f"{share.use.task.name} (final race)")
            self.remeasured += share.tuner.race(count, self._budget.deadline - reserve)
            self._note_latency()

    def report(self) -> dict[str, Any]:
        """What was done, ready for JSON: seconds, and None for what is not known."""
        return {
            "method": self._method.name,
            "tasks": [share.describe() for share in self._shares],
            "trials": self.trials,
            "trials_per_second": self.trials_per_second,
            "remeasured": self.remeasured,
            "failures": self.failures,
            "estimated_latency": self.estimated_latency,
            "tasks_without_success": sum(math.isinf(share.best) for share in self._shares),
            "thinking_seconds": sum(tuner.thinking for tuner in self.tuners.values()),
            "interrupted": self.interrupted,
            "roofline": None if self._roofline is None else self._roofline.describe(),
            "curve": [list(point) for point in self.curve],
            **({} if self._lending is None else {"sharing": self._lending.describe()}),
        }

    # Whose turn it is --------------------------------------------------------------------------------------------

    def _first_pass(self, reserve: float) -> None:
        # A task that is known well enough from records needs no first round.
        todo = [s for s in self._order if s.live and (s.measured < self._first_round or math.isinf(s.best))]
        light = _LIGHT * float(np.mean([s.use.weight * s.possible for s in self._shares])) if todo else 0.0
        for done, share in enumerate(todo):
            if self._budget.exhausted(reserve):
                return
            size = self._first_size(todo[:done], len(todo) - done, reserve)
            if share.use.weight * share.possible < light:  # the cost model's first choice, too, where there is one
                size = min(size, 1 + (share.tuner is not None and share.tuner.space.has_loop_nest))
            if self._lending is None:
                self._round(share, size, reserve)
                continue
            for part in self._lending.first_rounds(share, size):
                if share.live and not self._budget.exhausted(reserve):
                    self._round(share, part, reserve)
            while self._lending.again(share) and not self._budget.exhausted(reserve):
                self._round(share, size, reserve)

    def _first_size(self, done: list[Share], left: int, reserve: float) -> int:
        """How many candidates each of the ``left`` first rounds may have: fewer where the budget is small."""
        known = [s for s in (share.seconds_per_trial() for share in done) if s is not None]
        trials = _FIRST_PASS_SHARE * self._budget.remaining_trials / left
        if known:
            mean = sum(known) / len(known)
            trials = min(trials, _FIRST_PASS_SHARE * (self._budget.remaining_seconds - reserve) / (left * mean))
        return int(min(self._first_round, max(2.0, trials)))

    def _next(self, reserve: float) -> Share | None:
        live = [share for share in self._order if share.live and self._left(share) > 0]
        if not live:
            return None
        if self._lending is not None:
            self._lending.update(self._round_size)
            urgent = self._lending.urgent(self._trials_left(reserve), self._round_size)
            if urgent is not None and self._left(urgent) > 0:
                return urgent
        if self._rng.random() < _EPSILON:
            return live[int(self._rng.integers(len(live)))]
        return live[int(np.argmax(self._rule(live, self._shares, self._round_size)))]

    def _left(self, share: Share) -> float:
        """How many trials a task may still have."""
        return self._task_trials - (0 if share.tuner is None else share.tuner.trials)

    def _trials_left(self, reserve: float) -> float:
        """About how many candidates the rest of the budget is enough for."""
        known = [s for s in (share.seconds_per_trial() for share in self._shares) if s is not None]
        if not known:
            return self._budget.remaining_trials
        seconds = max(0.0, self._budget.remaining_seconds - reserve)
        return min(self._budget.remaining_trials, seconds * len(known) / sum(known))

    def _round(self, share: Share, size: int, reserve: float) -> None:
        assert share.tuner is not None
        self._update(share.use.task.name)
        before = share.tuner.trials
        try:
            if self._lending is not None:
                size = self._lending.prepare(share, size)
            count = int(min(size, self._left(share), self._budget.remaining_trials))
            share.note(share.tuner.round(count, self._budget.deadline - reserve))
            if self._lending is not None:
                self._lending.learn(share)
        except SpaceError as error:  # one task's space must not end the tuning of the others
            share.problem = str(error)
        finally:  # an interrupted round has had its trials, too
            self._budget.spend(share.tuner.trials - before)
            self._note_latency()
        self._update(share.use.task.name)

    # Telling -----------------------------------------------------------------------------------------------------

    def _space(self, task: Task) -> DesignSpace:
        if self._make_space is None:
            from tilewright.ops.registry import make_space  # imports TVM

            self._make_space = make_space
        return self._make_space(task, self._target)

    def _earlier_space(self, task: Task) -> DesignSpace:
        """The space of a task out of the records, whose function others may have written."""
        if self._check_recorded:
            from tilewright.space.recorded import check_recorded

            check_recorded(task)
        return self._space(task)

    def _pending(self, share: Share) -> bool:
        return share.live or (share.tuner is None and not share.problem)

    def _note_latency(self) -> None:
        latency = self.estimated_latency
        if latency is not None and (not self.curve or self.curve[-1][1] != latency):
            self.curve.append((self._budget.elapsed, latency))

    def _update(self, task: str) -> None:
        begun = [share for share in self._shares if share.measured or share.rounds]
        self._progress.update(
            TuneState(
                remaining=self._budget.remaining_seconds,
                trials=self.trials,
                trials_left=self._budget.remaining_trials,
                trials_per_second=self.trials_per_second,
                estimated_latency=self.estimated_latency,
                failures=self.failures,
                task=task,
                tasks_done=len(begun),
                tasks=len(self._shares),
                tasks_without_success=sum(math.isinf(share.best) for share in begun),
            )
        )
