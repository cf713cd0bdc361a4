"""Deals out the rounds of a budget: a first pass over all tasks, then each round to the task that promises most.

A runner works on one round at a time. A fleet works on several, of different tasks
(:class:`tilewright.measure.runner.ParallelRunner`). A task has one round at a time, because it learns from each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from tilewright.errors import SpaceError
from tilewright.measure.outcome import Measurement
from tilewright.measure.runner import Job, ParallelRunner, Runner
from tilewright.space.guard import guard_space
from tilewright.tuning.context import Scheduling, TuningContext
from tilewright.tuning.sharing import Lending
from tilewright.tuning.task_state import TaskState
from tilewright.tuning.tuner import OpenRound

__all__ = ["Dealer", "race_in_parallel"]

#: The share of rounds that go to any task at random, against a gain that was misjudged.
_EPSILON = 0.05
#: The first pass may use this share of the time that is left, if that leaves each task 2 candidates.
_FIRST_PASS_SHARE = 0.4
#: A task is light if, by the roofline, it needs less than this share of the mean task's time. The first pass measures
#: only its default and the cost model's first choice. By :mod:`tilewright.tuning.learning_curve`, three more trials of
#: it would gain less than one later round of a heavy task. If its default is slow, the rule picks it later.
_LIGHT = 0.25
#: The share of the remaining budget that dependents may take, where they are measured after all representatives.
_MOST_BORROWING = 0.5


@dataclass
class _Open:
    """A round that is being measured."""

    task: TaskState
    begun: OpenRound


class _OneByOne:
    """A runner that works on one batch at a time, as a :class:`ParallelRunner`."""

    slots = machines = 1

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._done: list[tuple[int, list[Measurement]]] = []

    def submit(self, ticket: int, job: Job) -> None:
        """Measure the batch."""
        measured = self._runner.measure(job.space, job.configs, job.best, job.deadline) if len(job.configs) else []
        self._done.append((ticket, measured))

    def finished(self) -> list[tuple[int, list[Measurement]]]:
        """What was measured since the last call."""
        done, self._done = self._done, []
        return done

    def cancel(self, ticket: int) -> None:
        """Nothing goes on."""


class Dealer:
    """Deals rounds out to the tasks of a network.

    Args:
        tasks: all tasks.
        order: the tasks in the order of the first pass.
        context: what the tuning works with.
        scheduling: how rounds are dealt out.
        lending: what tasks lend each other; None: nothing.
        tell: is called with the name of a task before and after its round; and after each round without arguments.
    """

    def __init__(
        self,
        tasks: Sequence[TaskState],
        order: Sequence[TaskState],
        context: TuningContext,
        scheduling: Scheduling,
        lending: Lending | None,
        tell: tuple[Callable[[str], None], Callable[[], None]],
    ) -> None:
        self._tasks, self._order, self._lending = tasks, order, lending
        self._budget, self._rng, self._scheduling, self._log = context.budget, context.rng, scheduling, context.log
        self._update, self._note_latency = tell
        runner = context.runner
        self._runner: ParallelRunner = runner if isinstance(runner, ParallelRunner) else _OneByOne(runner)
        self._parallel = isinstance(runner, ParallelRunner)
        self._tickets, self._open = count(), dict[int, _Open]()

    def run(self, reserve: float) -> None:
        """The first pass, then rounds until ``reserve`` seconds are left or no task promises anything.

        Raises:
            BaseException: as the runner does. What the open rounds had brought is learnt from the store.
        """
        try:
            sharing = None if self._lending is None else self._lending.sharing
            if sharing is not None and sharing.only_borrows and self._lending is not None:
                waiting = self._lending.dependents
                tuned = [task for task in self._order if task not in waiting]
                self._deal(tuned, reserve, keep=(sharing.top + 1) * len(waiting))
                for task in waiting:
                    if task.live and not self._budget.exhausted(reserve):
                        self._begin(task, 0, reserve, proposes=False)
                        self._make_room()
                self._drain()
            self._deal(self._order, reserve)
        except BaseException:
            for ticket in list(self._open):
                self._abandon(ticket)
            raise

    # Whose turn it is -------------------------------------------------------------------------------------------------

    def _deal(self, tasks: Sequence[TaskState], reserve: float, keep: int = 0) -> None:
        """A first pass over some tasks, then rounds, until ``keep`` trials or ``reserve`` seconds are left."""
        self._first_pass(tasks, reserve)
        while not self._budget.exhausted(reserve):
            left = self._trials_left(reserve)
            trials = sum(0 if task.tuner is None else task.tuner.trials for task in self._tasks)
            if left <= min(keep, _MOST_BORROWING * (trials + left)):
                break
            if self._open and self._budget.remaining_trials <= self._in_flight:
                self._collect()
                continue
            task = self._next(tasks)
            if task is not None:
                self._begin(task, self._round_size(task, tasks), reserve)
                self._make_room()
            elif self._open:
                self._collect()  # then their tasks may have another round
            else:
                break
        self._drain()

    def _first_pass(self, tasks: Sequence[TaskState], reserve: float) -> None:
        # A task that is known well enough from records needs no first round.
        first = self._scheduling.first_round
        todo = [task for task in tasks if task.live and (task.measured < first or math.isinf(task.best))]
        light = _LIGHT * float(np.mean([task.use.weight * task.possible for task in self._tasks])) if todo else 0.0
        for done, task in enumerate(todo):
            if self._budget.exhausted(reserve) or self._budget.remaining_trials <= self._in_flight:
                return
            size = self._first_size(todo[:done], len(todo) - done, reserve)
            if task.use.weight * task.possible < light:  # the cost model's first choice, too, where there is one
                size = min(size, 1 + (task.tuner is not None and task.tuner.space.has_loop_nest))
            self._begin(task, size, reserve)
            self._make_room()

    def _first_size(self, done: Sequence[TaskState], left: int, reserve: float) -> int:
        """How many candidates each of the ``left`` first rounds may have: fewer where the budget is small."""
        trials = _FIRST_PASS_SHARE * (self._budget.remaining_trials - self._in_flight) / left
        known = _seconds_per_trial(done)
        if known:
            mean = sum(known) / len(known) / self._runner.machines
            trials = min(trials, _FIRST_PASS_SHARE * (self._budget.remaining_seconds - reserve) / (left * mean))
        return int(min(self._scheduling.first_round, max(2.0, trials)))

    def _round_size(self, task: TaskState, tasks: Sequence[TaskState]) -> int:
        """How many candidates the next round of a task has: more where machines outnumber the tasks."""
        size = task.snapshot().round_size(self._scheduling.round_size)
        live = sum(task.live for task in tasks)
        return size * max(1, math.ceil(self._runner.slots / max(1, live))) if self._parallel else size

    def _next(self, tasks: Sequence[TaskState]) -> TaskState | None:
        """The task of the next round; None: none promises anything. Marks tasks that promise nothing as done."""
        busy = [each.task for each in self._open.values()]
        live = [task for task in tasks if task.live and self._left(task) > 0 and task not in busy]
        if not live:
            return None
        if self._rng.random() < _EPSILON:
            return live[int(self._rng.integers(len(live)))]
        everything = [task.snapshot() for task in self._tasks]
        gains = self._scheduling.rule([task.snapshot() for task in live], everything, self._scheduling.round_size)
        for task, gain in zip(live, gains, strict=True):
            task.done = gain <= 0.0
        leverage = [1.0 if self._lending is None else self._lending.leverage(task) for task in live]
        return live[int(np.argmax(np.asarray(gains) * leverage))]

    def _left(self, task: TaskState) -> float:
        """How many trials a task may still have."""
        return self._scheduling.task_trials - (0 if task.tuner is None else task.tuner.trials)

    def _trials_left(self, reserve: float) -> float:
        """About how many candidates the rest of the budget is enough for."""
        known = _seconds_per_trial(self._tasks)
        if not known:
            return self._budget.remaining_trials
        seconds = max(0.0, self._budget.remaining_seconds - reserve) * self._runner.machines
        return min(self._budget.remaining_trials, seconds * len(known) / sum(known))

    # Rounds -----------------------------------------------------------------------------------------------------------

    @property
    def _in_flight(self) -> int:
        """How many candidates are being measured."""
        return sum(len(each.begun.batch) for each in self._open.values())

    def _begin(self, task: TaskState, size: int, reserve: float, *, proposes: bool = True) -> None:
        """Begin a round of a task. Without ``proposes`` it has no candidates but its default and what it borrows."""
        assert task.tuner is not None
        self._update(task.use.task.name)
        ticket = next(self._tickets)
        try:
            with guard_space(f"the search of {task.use.task.name!r}"):
                lent = 0 if self._lending is None else self._lending.lend(task)
                if not proposes:
                    size = lent + (task.measured == 0)
                wanted = int(min(size, self._left(task), self._budget.remaining_trials - self._in_flight))
                if wanted <= 0:
                    self._note_latency()
                    return
                begun = task.tuner.begin(wanted)
                self._open[ticket] = _Open(task, begun)
                deadline = self._budget.deadline - reserve
                self._runner.submit(ticket, Job(task.tuner.space, begun.batch, task.tuner.best_seconds, deadline))
        except SpaceError as error:  # one task's space must not end the tuning of the others
            self._abandon(ticket)
            task.problem = str(error)
            self._update(task.use.task.name)

    def _make_room(self) -> None:
        """Wait until the runner is free for another round."""
        while len(self._open) >= self._runner.slots:
            self._collect()

    def _drain(self) -> None:
        """Wait until no round is open."""
        while self._open:
            self._collect()

    def _collect(self) -> None:
        """End the rounds that are measured; wait for one."""
        for ticket, measured in self._runner.finished():
            self._end(ticket, measured)

    def _end(self, ticket: int, measured: list[Measurement]) -> None:
        opened = self._open.pop(ticket)
        task, tuner = opened.task, opened.task.tuner
        assert tuner is not None
        before = tuner.trials
        # Where other rounds go on meanwhile, a round has taken what its candidates took.
        seconds = opened.begun.thinking + sum(m.elapsed for m in measured) if self._parallel else None
        try:
            with guard_space(f"the search of {task.use.task.name!r}"):
                result = tuner.end(opened.begun, measured, seconds)
                task.note(result)
                self._log.round(task, result)
                if self._lending is not None:
                    self._lending.judge(task, result)
        except SpaceError as error:
            task.problem = str(error)
        finally:
            self._budget.spend(tuner.trials - before)
            self._note_latency()
        self._update(task.use.task.name)

    def _abandon(self, ticket: int) -> None:
        """Give an open round up; it has had its trials, too."""
        opened = self._open.pop(ticket, None)
        if opened is not None and opened.task.tuner is not None:
            before = opened.task.tuner.trials
            self._runner.cancel(ticket)
            opened.task.tuner.abandon(opened.begun)
            self._budget.spend(opened.task.tuner.trials - before)
        self._note_latency()


def race_in_parallel(
    tasks: Sequence[TaskState], runner: ParallelRunner, count: int, deadline: float, limit: float
) -> int:
    """Race the finalists of tasks, as :meth:`tilewright.tuning.tuner.TaskTuner.race` does, on several machines at once.

    Args:
        tasks: those with a working config, the heaviest first.
        runner: races.
        count: the most finalists of a task, without its default.
        deadline: reading of ``time.monotonic()`` after which no race is started.
        limit: the most measurements.

    Returns:
        the number of measurements.
    """
    racing, wanted, measured = dict[int, TaskState](), 0, 0
    for ticket, task in enumerate(tasks):
        assert task.tuner is not None
        if wanted + count > limit:
            break
        configs = task.tuner.racers(count)
        if len(configs) > 1:
            racing[ticket] = task
            wanted += len(configs)
            runner.submit(ticket, Job(task.tuner.space, configs, math.inf, deadline, race=True))
    try:
        while racing:
            for ticket, results in runner.finished():
                tuner = racing.pop(ticket).tuner
                assert tuner is not None
                measured += tuner.note_race(results)
    finally:
        for ticket in racing:
            runner.cancel(ticket)
    return measured


def _seconds_per_trial(tasks: Sequence[TaskState]) -> list[float]:
    """Seconds per trial of those tasks that had trials."""
    found = (task.snapshot().seconds_per_trial for task in tasks)
    return [seconds for seconds in found if seconds is not None]
