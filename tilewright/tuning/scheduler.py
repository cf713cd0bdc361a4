"""Tuning a network: whose turn it is to use the next seconds of the budget.

First every task has a small round, those with the most arithmetic first, so that there is a usable answer early. Then
each round goes to the task that promises the largest reduction of the network's latency per second
(:mod:`tilewright.tuning.priorities`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tilewright.errors import SpaceError
from tilewright.measure.runner import ParallelRunner
from tilewright.methods.default import default
from tilewright.methods.method import Method
from tilewright.space.guard import guard_space
from tilewright.space.space import Configs, DesignSpace, name_instruction
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.context import HasNodes, Scheduling, TuningContext
from tilewright.tuning.dealing import Dealer, race_in_parallel
from tilewright.tuning.progress import TuneState
from tilewright.tuning.report import NetworkReport
from tilewright.tuning.roofline import Roofline, touched_bytes
from tilewright.tuning.sharing import Lending
from tilewright.tuning.task_state import TaskState, TaskUse
from tilewright.tuning.tuner import TaskTuner
from tilewright.wording import counted

__all__ = ["NetworkTuner"]

#: Seconds that design spaces may take even past the budget, because making one also reads its records. (A choice.)
_LEAST_PREPARING = 10.0
#: Without a time limit, the share of the trials that measuring finalists once more may take.
_RACE_SHARE = 0.05


class NetworkTuner:
    """Spends a budget on the tasks of a network.

    Args:
        uses: the tasks, no two of one key, and how often each occurs.
        context: what the tuning works with.
        method: how tasks are searched, and what they share; by default :func:`tilewright.methods.default.default`.
        scheduling: how rounds are dealt out.
        roofline: of the machine; None: not known.
        make_space: makes the design space of a task; by default ``tilewright.ops.registry.make_space``.

    Attributes:
        interrupted: whether a KeyboardInterrupt ended the tuning.
        curve: seconds since the budget's start and the estimated latency of the network, where it changed.
        remeasured: measurements of finalists, which are no trials.
    """

    def __init__(
        self,
        uses: Sequence[TaskUse],
        context: TuningContext,
        *,
        method: Method | None = None,
        scheduling: Scheduling = Scheduling(),  # noqa: B008 - a frozen value
        roofline: Roofline | None = None,
        make_space: Callable[[Task, Target], DesignSpace] | None = None,
    ) -> None:
        self.interrupted = False
        self.curve: list[tuple[float, float]] = []
        self.remeasured = 0
        self._context, self._budget, self._rng = context, context.budget, context.rng
        self._method = default() if method is None else method
        self._scheduling, self._roofline, self._make_space = scheduling, roofline, make_space
        self._lending: Lending | None = None
        # A stream per task, so that the order of their rounds does not change what each one proposes.
        streams = self._rng.spawn(len(uses))
        self._tasks = [TaskState(use, stream) for use, stream in zip(uses, streams, strict=True)]
        # Those with the most arithmetic first; the sort is stable.
        self._order = sorted(self._tasks, key=lambda task: -task.use.weight * task.use.task.flop)
        self._began = self._budget.elapsed
        self._ended: float | None = None

    @property
    def tuners(self) -> dict[str, TaskTuner]:
        """The tuner of each task that has a design space, by ``Task.key``."""
        return {task.key: task.tuner for task in self._tasks if task.tuner is not None}

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
        """Trials per second from the start of tuning (when workers start, too) to its end."""
        spent = (self._budget.elapsed if self._ended is None else self._ended) - self._began
        return self.trials / spent if spent > 0 else 0.0

    @property
    def estimated_latency(self) -> float | None:
        """The sum of weight x best in seconds; None while a task that may still get one has no latency.

        A task for which nothing worked and which gets no more rounds is left out; ``report`` counts those.
        """
        if not self._tasks or any(math.isinf(task.best) and _is_pending(task) for task in self._tasks):
            return None
        known = [task for task in self._tasks if math.isfinite(task.best)]
        return sum(task.use.weight * task.best for task in known) if known else None

    def prepare(self, reserve: float = 0.0) -> None:
        """Make the design spaces and learn what the store knows of them. Done by :meth:`run`; may be called before.

        Args:
            reserve: seconds of the budget to leave for what comes after. A task whose turn comes later, and after 10 s
                of making spaces, is not tuned.
        """
        until = self._budget.elapsed + max(_LEAST_PREPARING, self._budget.remaining_seconds - reserve)
        for task in self._order:
            if task.tuner is None and not task.problem:
                if self._budget.elapsed >= until:
                    task.problem = "the budget left no time to make its design space; give a larger budget"
                else:
                    self._prepare(task)
        # Comparing tasks takes seconds where there are hundreds, and brings nothing where none is measured any more.
        sharing = self._method.sharing
        if sharing is not None and self._lending is None and self._budget.remaining_seconds > 0.0:
            self._lending = Lending(sharing, self._order)
            dependents = {task.key for task in self._lending.dependents}
            self._order.sort(key=lambda task: task.key in dependents)  # representatives first; the sort is stable
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
        known = sum(task.measured > 0 for task in self._tasks)
        without = sum(bool(task.problem) for task in self._tasks)
        first = counted(len(self._tasks), "task")
        if known:
            first += f", {known} of them measured already"
        if without:
            first += f", {without} without a design space, built by TVM without tuning"
        return [first, *([] if self._lending is None else self._lending.plan())]

    def run(self, reserve: float = 0.0, finalists: int = 3, finalist_seconds: float = 0.0) -> None:
        """Tune until the budget is spent, no task promises a gain, or the user interrupts.

        Args:
            reserve: seconds of the budget to leave for what comes after.
            finalists: the number of a task's best configs that are measured once more at the end; 0: none.
            finalist_seconds: for these measurements. Without a time limit they take at most 5 % of the trials.

        Raises:
            MeasureError: the runner cannot work.
            RecordsError: the store cannot be used.
        """
        rest = reserve + (finalist_seconds if finalists > 0 else 0.0)
        try:
            with self.interruptible():
                self.prepare(rest)
                if self.interrupted:
                    return
                self._context.log.phase("rounds")
                self._dealer().run(rest)
                if finalists > 0:
                    self._context.log.phase("finalists")
                    self.remeasure_finalists(finalists, reserve)
        finally:
            self._ended = self._budget.elapsed
            self._update("")

    def finalists(self, key: str, count: int = 3) -> Configs:
        """``(n, knobs)``: the fastest few configs of a task (by ``Task.key``), fastest first. Raises ``KeyError``."""
        return self.tuners[key].finalists(count, math.inf)

    def remeasure_finalists(self, count: int = 3, reserve: float = 0.0) -> None:
        """Measure the ``count`` best configs of each task once more, by turns, the heaviest tasks first.

        Stops at the budget's deadline less ``reserve``, or without a time limit after 5 % of the trials.
        """
        limit = math.inf if self._budget.budget.seconds is not None else _RACE_SHARE * self.trials
        ran = [task for task in self._tasks if task.tuner is not None and math.isfinite(task.best)]
        ordered = sorted(ran, key=lambda task: -task.use.weight * task.best)
        runner = self._context.runner
        if isinstance(runner, ParallelRunner):
            self.remeasured += race_in_parallel(ordered, runner, count, self._budget.deadline - reserve, limit)
            self._note_latency()
            return
        for task in ordered:
            assert task.tuner is not None
            if self._budget.remaining_seconds <= reserve or self.remeasured + count > limit:
                return
            self._update(f"{task.use.task.name} (finalists)")
            self.remeasured += task.tuner.race(count, self._budget.deadline - reserve)
            self._context.log.best(task)
            self._note_latency()

    def report(self) -> NetworkReport:
        """What was done."""
        return NetworkReport(
            method=self._method.name,
            tasks=tuple(task.report() for task in self._tasks),
            trials=self.trials,
            trials_per_second=self.trials_per_second,
            remeasured=self.remeasured,
            failures=self.failures,
            estimated_latency=self.estimated_latency,
            tasks_without_success=sum(math.isinf(task.best) for task in self._tasks),
            thinking_seconds=sum(tuner.thinking for tuner in self.tuners.values()),
            interrupted=self.interrupted,
            roofline=None if self._roofline is None else self._roofline.describe(),
            curve=tuple(self.curve),
            sharing=None if self._lending is None else self._lending.report(),
        )

    def _dealer(self) -> Dealer:
        """What deals out the rounds."""
        return Dealer(
            self._tasks, self._order, self._context, self._scheduling, self._lending, (self._update, self._note_latency)
        )

    # Making and telling ------------------------------------------------------------------------------------------

    def _prepare(self, task: TaskState) -> None:
        """Make the design space of a task."""
        context = self._context
        if self._make_space is None:
            from tilewright.ops.registry import make_space  # imports TVM

            self._make_space = make_space
        try:
            with guard_space(f"the design space of {task.use.task.name!r}"):
                space = self._make_space(task.use.task, context.target)
                task.tuner = TaskTuner(
                    space,
                    context.target,
                    context.runner,
                    context.store,
                    task.rng,
                    self._method,
                    clock=lambda: self._budget.elapsed,
                )
                task.touched, task.instruction = touched_bytes(space), name_instruction(space)
                if self._roofline is not None:
                    task.possible = self._roofline.possible(space)
                context.log.space(task)
        except SpaceError as error:
            task.problem = str(error)

    def _note_latency(self) -> None:
        latency = self.estimated_latency
        if latency is not None and (not self.curve or self.curve[-1][1] != latency):
            self.curve.append((self._budget.elapsed, latency))
            self._context.log.latency(latency)

    def _update(self, name: str) -> None:
        begun, runner = [task for task in self._tasks if task.measured or task.rounds], self._context.runner
        self._budget.show(
            TuneState(
                trials=self.trials,
                trials_left=self._budget.remaining_trials,
                trials_per_second=self.trials_per_second,
                estimated_latency=self.estimated_latency,
                failures=self.failures,
                task=name,
                tasks_done=len(begun),
                tasks=len(self._tasks),
                tasks_without_success=sum(math.isinf(task.best) for task in begun),
                nodes=runner.nodes if isinstance(runner, HasNodes) else (),
            )
        )


def _is_pending(task: TaskState) -> bool:
    """Whether a task may still get a latency."""
    return task.live or (task.tuner is None and not task.problem)
