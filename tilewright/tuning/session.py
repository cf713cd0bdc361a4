"""The whole command: load, check, tune, finish, publish."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.compiling.build import check_compiler, publish
from tilewright.errors import CheckError, TargetError
from tilewright.executable.executable import Executable, load_executable, wanted_threads
from tilewright.frontend.load import load
from tilewright.frontend.network import Network
from tilewright.graph.algorithms import Choice, choose
from tilewright.graph.tasks import extract
from tilewright.interrupts import holding
from tilewright.measure.pool import LocalPool, PoolStatistics
from tilewright.measure.runner import NoRunner, Runner
from tilewright.methods.default import default, known_beforehand
from tilewright.methods.method import Method
from tilewright.records.fallback import FallbackStore, open_for_tuning
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query, Store
from tilewright.share.policy import Sharing
from tilewright.target import Target
from tilewright.tuning.budget import Budget, RunningBudget
from tilewright.tuning.choice import recorded
from tilewright.tuning.finish import Candidate, Finishing, FinishTimes, Workshop, race_seconds
from tilewright.tuning.progress import Progress, SilentProgress
from tilewright.tuning.roofline import Roofline, measure_roofline
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.verify.checker import Checker
from tilewright.verify.verdict import Outcome

__all__ = ["IN_PLACE", "MOST_REFERENCE", "TuneResult", "race_reserve", "tune"]

#: Seconds that compiling an executable takes: a constant and per task; and that writing and checking it take: a
#: constant and per byte of weights. Measured on SqueezeNet to VGG-19.
_COMPILING, _WRITING = (1.5, 0.1), (2.0, 4e-8)
#: Safety factor for repeated work on a noisy machine.
_DOUBT = 1.3
#: A tuned executable is compared with the incumbent only if the remaining budget is at least this many times what
#: finishing or racing takes.
_COMPARING = 4.0
#: The share of the budget for comparing winners with defaults on several kinds of data, the seconds that it may take
#: where the budget has no end, and what a task takes.
_CHECKING, _MOST_CHECKING, _CHECKING_TASK = 0.03, 60.0, 0.4
#: The share of the budget for timing a task's best schedules in their places, and seconds where the budget has no end.
IN_PLACE, _MOST_IN_PLACE = 0.06, 20.0
#: A budget of fewer seconds is too short to measure anything: half of it passes until workers are ready.
_LEAST_MEASURING = 10.0
#: The share of the machine's speed that a network has at least before the final race; and the share of the budget for
#: that race, unless three turns take longer.
_HALF_WAY, _RACING = 0.5, 0.1
#: The share of the budget for choosing algorithms of convolutions; the seconds it may take where the budget has no
#: end; and the seconds below which it is not begun, for a convolution takes 2 to 5.
_CHOOSING, _MOST_CHOOSING, _LEAST_CHOOSING = 0.1, 60.0, 3.0
#: Seconds in which workers start, which tuning would wait for as well.
_STARTING = 3.0
#: The share of the budget for finding inputs that executables are judged on, and its limits in seconds. Most networks
#: need 1 to 6 s, beside the compiling of the first executable; DenseNet-121 needs 10.
_REFERENCE, _LEAST_REFERENCE, MOST_REFERENCE = 0.05, 8.0, 10.0


@dataclass(frozen=True)
class TuneResult:
    """The result of tuning a network.

    Attributes:
        executable: the one in the output directory.
        report: JSON-able: ``wall_seconds``, ``trials``, ``trials_per_second``, ``failures``, ``tasks``, ``curve``,
            ``algorithms`` (of convolutions), ``final_race``, ``verdict``, ``published``, ``disturbance`` ...
    """

    executable: Executable
    report: dict[str, Any]


def tune(
    model: Any,
    out: str | Path,
    *,
    budget: Budget | str,
    target: str | Target = "native",
    records: str | Path | Store | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    method: Method | None = None,
    sharing: Sharing | bool = True,
    progress: Progress | None = None,
    began: float | None = None,
) -> TuneResult:
    """Tune a network within ``budget`` and write its executable into the directory ``out``.

    First the incumbent is built, with the best schedules on record or default ones, and its outputs are judged. Then
    tuning begins. ``out`` is written once, in the end, with an executable that was judged.

    A first KeyboardInterrupt ends the tuning: the best executable that is ready is written, and the report says
    ``interrupted``. If none is ready, an earlier executable in ``out`` stays and the interrupt is raised; without
    an earlier one, the incumbent is finished first. A second interrupt is raised at once.

    Args:
        model: what :func:`tilewright.frontend.load.load` takes.
        out: the directory to write; replaced if it is there.
        budget: covers everything, from ``began`` to the written executable; a :class:`Budget`, or a duration as
            :meth:`Budget.parse` reads it, such as "5m".
        target: what to tune for. ``native:cold`` times candidates with cold caches; their records are kept apart.
        records: a store, or the file or URL of one; None keeps the measurements in memory only. If the store fails
            while tuning, a note in the report says so. Measurements are then kept in memory, and handed over later if
            the store allows.
        shapes: the shapes of symbolic inputs, by name.
        seed: the seed of all random numbers.
        method: how tasks are searched; by default :func:`tilewright.methods.default.default` with the cost model that
            comes with Tilewright.
        sharing: what tasks borrow from each other and from earlier networks in the records; True: as the
            method says, False: nothing.
        progress: shows the state of the tuning.
        began: ``time.monotonic()`` at the start of the command; now, if None.

    Raises:
        RecordsError: the store cannot be opened; one that can only be read costs a note.
        TilewrightError: as the parts do. Measurements made so far are in the store.
        CheckError: the outputs are wrong with default schedules, too; nothing was tuned.
        KeyboardInterrupt: no executable was written; an earlier one in ``out`` is untouched.
    """
    limits = Budget.parse(budget) if isinstance(budget, str) else budget
    running = limits.start(began=began)
    check_compiler()
    wanted_threads()  # as the executable will be asked in the end
    notes: list[str] = []
    if method is None:
        prior, problem = known_beforehand()
        method = default(prior)
        notes += [problem] if problem else []
    machine = target if isinstance(target, Target) else Target.parse(target)
    if machine.triple:
        raise TargetError(
            f"candidates are timed on this machine, but code for {machine.triple} does not run here; tune there"
        )
    shared = method.sharing if sharing is True else sharing or None
    with ExitStack() as stack:
        store, ours = _open(records)
        if ours:
            stack.callback(store.close)
        # An ending without a kill hands over what the store has refused so far.
        stack.callback(store.settle)
        show = progress or SilentProgress()
        plan = _Plan(Path(out), running, store, np.random.default_rng(seed), method, shared, show)
        session = _Session(plan, machine, stack, notes)
        try:
            session.check(model, shapes)
            session.tune()
        except CheckError as error:
            error.report = {**session.short_report(), **error.report}
            raise
        return session.publish()


@dataclass(frozen=True)
class _Plan:
    """What a session is asked to do."""

    out: Path
    budget: RunningBudget
    store: FallbackStore
    rng: np.random.Generator
    method: Method
    sharing: Sharing | None
    progress: Progress


@dataclass
class _Session:
    """One tuning of one network: what is known of it so far, and the steps that add to that."""

    plan: _Plan
    machine: Target
    stack: ExitStack
    notes: list[str]
    interrupted: bool = False
    pool: LocalPool | None = None
    roofline: Roofline | None = None
    algorithms: list[Choice] = field(default_factory=list)
    algorithm_trials: int = 0
    tuner: NetworkTuner | None = None
    finishing: Finishing | None = None
    loaded: float = 0.0
    checked: float = 0.0
    tuned: float = 0.0

    def __post_init__(self) -> None:
        self.aside = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewright-")))

    # Before tuning -----------------------------------------------------------------------------------------------

    def check(self, model: Any, shapes: Mapping[str, tuple[int, ...]] | None) -> None:
        """Load the model, build it as it would run without tuning, and judge that executable.

        An interrupt is held back where there would be no executable otherwise; then nothing is tuned.
        """
        hold = 0 if _holds_executable(self.plan.out) else 1
        with holding(hold, tell=self._tell_held) as held:
            self._load(model, shapes)
            self._first_check()
        self.interrupted = bool(held.received)
        self.checked = self.plan.budget.elapsed

    def _tell_held(self) -> None:
        self.plan.progress.announce(
            ["interrupted: the incumbent, which is not tuned, is finished first; interrupt again to end at once"]
        )

    def _load(self, model: Any, shapes: Mapping[str, tuple[int, ...]] | None) -> None:
        budget, store = self.plan.budget, self.plan.store
        if budget.budget.seconds is None or budget.remaining_seconds >= _LEAST_MEASURING:
            # Before the network is read: workers take seconds to start.
            pool = LocalPool(self.machine, on_measurement=lambda m: store.add([m]))
            self.pool = self.stack.enter_context(pool)
        self.network: Network = load(model, shapes)
        self.machine = self.machine.with_weights(self.network.weight_bytes)
        if self.pool is not None:
            self.pool.weigh(self.network.weight_bytes)
        seconds = MOST_REFERENCE
        if budget.budget.seconds is not None:
            seconds = min(seconds, max(_LEAST_REFERENCE, _REFERENCE * budget.budget.seconds))
        self.checker = self.stack.enter_context(Checker(self.network, seconds))
        before = budget.elapsed
        self.extraction = extract(self.network, self.machine)
        self.extracting = budget.elapsed - before
        self.loaded = budget.elapsed

    def _first_check(self) -> None:
        """Build and judge what the network runs with before it is tuned: the incumbent."""
        self._use_recorded_algorithms()
        self.workshop = Workshop(self.extraction, self.checker, self.aside, "first")
        self.incumbent = self.workshop.build(recorded(self.extraction, self.plan.store))
        self.finishing = Finishing(self.workshop, self.incumbent)
        if self.incumbent.verdict.outcome is Outcome.UNDECIDABLE:
            self.notes.append(f"it is not decidable whether the outputs are right: {self.incumbent.verdict.evidence}")

    def _use_recorded_algorithms(self) -> None:
        """Compute convolutions as the records say, where they say anything."""
        store, convolutions = self.plan.store, self.extraction.rewritten.convolutions
        if convolutions and next(iter(store.scan(Query(target=self.machine.key))), None) is not None:
            choices, _ = choose(convolutions, self.machine, NoRunner(), store, math.inf)
            self._extract(choices)

    def _extract(self, choices: list[Choice]) -> None:
        """Extract the network once more where other algorithms were chosen than it has."""
        chosen = {choice.convolution: choice.chosen for choice in choices if choice.chosen != "direct"}
        before = {choice.convolution: choice.chosen for choice in self.algorithms if choice.chosen != "direct"}
        if chosen != before:
            self.extraction = extract(self.network, self.machine, chosen)
        self.algorithms = choices

    # Tuning ------------------------------------------------------------------------------------------------------

    def tune(self) -> None:
        """Spend the budget: choose algorithms, tune, finish. An interrupt ends this step without an error."""
        if not self.interrupted:
            try:
                self._choose_algorithms()
            except KeyboardInterrupt:  # what was measured is in the store
                self.interrupted = True
        runner: Runner = NoRunner() if self.pool is None else self.pool
        for use in self.extraction.uses:
            self.plan.store.describe(use.task)
        self.tuner = tuner = NetworkTuner(
            self.extraction.uses,
            self.machine,
            runner,
            self.plan.store,
            self.plan.budget,
            self.plan.rng,
            method=self.plan.method,
            progress=self.plan.progress,
            sharing=self.plan.sharing,
            roofline=self.roofline,
        )
        if self.interrupted:
            return
        try:
            times = self._spend(tuner)
            self._finish(tuner, times)
        except KeyboardInterrupt:
            self.interrupted = True
        self.interrupted |= tuner.interrupted

    def _choose_algorithms(self) -> None:
        """Measure the algorithms of convolutions for a tenth of the budget, unless that is too little."""
        if self.pool is None:
            return
        budget, convolutions = self.plan.budget, self.extraction.rewritten.convolutions
        limits = budget.budget
        seconds = _MOST_CHOOSING if limits.seconds is None else _CHOOSING * limits.seconds
        trials = math.inf if limits.trials is None else _CHOOSING * limits.trials
        # Extracting once more takes as long as before, and making design spaces about that as well.
        reserve = 2.0 * self.extracting + self._finishing_seconds()
        if convolutions and seconds >= _LEAST_CHOOSING and not budget.exhausted(reserve):
            until = min(time.monotonic() + _STARTING + seconds, budget.deadline - reserve)
            choices, made = choose(convolutions, self.machine, self.pool, self.plan.store, until, most_trials=trials)
            budget.spend(made)
            self.algorithm_trials = made
            self._extract(choices)
        self.roofline = measure_roofline(self.machine.cores, self.machine.features)

    def _spend(self, tuner: NetworkTuner) -> FinishTimes:
        """Tune until the rest of the budget is needed for finishing, and return what finishing may take."""
        budget, extraction = self.plan.budget, self.extraction
        seconds = budget.budget.seconds
        checking = _MOST_CHECKING if seconds is None else _CHECKING * seconds
        checking = min(checking, _CHECKING_TASK * len(extraction.uses))
        finishing, racing = self._finishing_seconds(), self._race_seconds()
        # A short budget is not spent on comparisons.
        compares = budget.remaining_seconds >= _COMPARING * max(finishing, racing)
        placing, reserve = 0.0, finishing + checking
        if compares:
            reserve += racing
            # With cold caches there is nothing that a kernel could find in its place.
            if extraction.plan is not None and self.machine.caches != "cold":
                placing = _MOST_IN_PLACE if seconds is None else IN_PLACE * seconds
        until = budget.deadline - self._writing_seconds()
        with self.plan.progress, tuner.interruptible():
            tuner.prepare()
            self.plan.progress.announce(tuner.plan())
            tuner.run(reserve=reserve + placing)
        if self.pool is not None:
            self.pool.close()  # nothing else of ours runs in the final race
        self.tuned = budget.elapsed
        return FinishTimes(checking, placing, until, compares)

    def _finish(self, tuner: NetworkTuner, times: FinishTimes) -> None:
        """Build and judge what was tuned, and race it against the incumbent."""
        workshop = self.workshop
        if self.extraction is not self.incumbent.extraction:
            workshop = Workshop(self.extraction, self.checker, self.aside, "tuned")
        self.finishing = Finishing(workshop, self.incumbent)
        self.finishing.run(tuner, times, short=tuner.interrupted)
        if self.finishing.best is not self.incumbent and self.finishing.race is None and not tuner.interrupted:
            self.finishing.notes.append(
                "the tuned executable was not raced against the incumbent: the rest of the budget was too short"
            )

    def _finishing_seconds(self) -> float:
        """Seconds that compiling, writing and checking the executable take."""
        compiling = self.incumbent.seconds or _COMPILING[0] + _COMPILING[1] * len(self.extraction.uses)
        return self._writing_seconds() + _DOUBT * compiling

    def _writing_seconds(self) -> float:
        """Seconds that writing and checking the executable take."""
        size = 4 * sum(recipe.size for recipe in self.extraction.rewritten.recipes)
        return _WRITING[0] + _WRITING[1] * size

    def _race_seconds(self) -> float:
        """Seconds to leave for the final race; inf where nobody knows what it takes."""
        if self.roofline is None:
            return math.inf
        # About the longest that a run will take.
        flop = sum(use.weight * use.task.flop for use in self.extraction.uses)
        return race_reserve(flop / (_HALF_WAY * self.roofline.reachable), self.plan.budget.budget)

    # The end -----------------------------------------------------------------------------------------------------

    def publish(self) -> TuneResult:
        """Write the best executable into the output directory, and report.

        Raises:
            OutputError: it cannot be written.
        """
        assert self.tuner is not None
        assert self.finishing is not None
        best = self.finishing.best
        untuned = best is self.incumbent
        with holding() as held:  # whole or not at all, whatever is pressed
            # An earlier executable may have been tuned for long, and this command was not given its time.
            keep = untuned and self.interrupted and not self.tuner.trials and _holds_executable(self.plan.out)
            if not keep:
                publish(best.folder, self.plan.out, self._manifest(best))
            self.plan.store.settle()
            unrecorded = self.plan.store.kept
            executable = load_executable(self.plan.out)
        self.interrupted |= bool(held.received)
        published = "earlier" if keep else "incumbent" if untuned else "tuned"
        return TuneResult(executable, self._report(best, published, unrecorded))

    def _manifest(self, best: Candidate) -> dict[str, Any]:
        """What the manifest of an executable says of how it came about."""
        names = {use.task.key: use.task.name for use in best.extraction.uses}
        return {"verdict": best.verdict.report(), "replaced": [names[key] for key in best.replaced]}

    def short_report(self) -> dict[str, Any]:
        """The part of the report that is known before tuning, or when no executable is right."""
        budget = self.plan.budget
        network = getattr(self, "network", None)
        return {
            "model": None if network is None else network.name,
            "target": self.machine.key,
            "machine": self.machine.machine,
            "cores": self.machine.cores,
            "date": time.strftime("%Y-%m-%d"),
            "budget_seconds": budget.budget.seconds,
            "wall_seconds": budget.elapsed,
            "load_seconds": self.loaded,
            "notes": self.notes + self.plan.store.notes,
        }

    def _report(self, best: Candidate, published: str, unrecorded: int) -> dict[str, Any]:
        assert self.tuner is not None
        assert self.finishing is not None
        finishing, statistics = self.finishing, PoolStatistics() if self.pool is None else self.pool.statistics
        names = {use.task.key: use.task.name for e in (best.extraction, self.extraction) for use in e.uses}
        wall = self.plan.budget.elapsed
        return {
            **self.tuner.report(),
            **self.short_report(),
            "interrupted": self.interrupted,
            "published": published,
            "verdict": best.verdict.report(),
            "first_check": {"seconds": self.checked - self.loaded, "verdict": self.incumbent.verdict.report()},
            "algorithm_trials": self.algorithm_trials,
            "wall_seconds": wall,
            "build_seconds": wall - (self.tuned or wall),
            "relative_error": best.verdict.error,
            "replaced_tasks": [names[key] for key in best.replaced],
            "wrong_kernels": {names[key]: reason for key, reason in finishing.check.wrong.items()},
            "unchecked_kernels": [names[key] for key in finishing.check.unchecked],
            "default_tasks": [
                use.task.name for use in best.extraction.uses if best.choice.configs.get(use.task.key) is None
            ],
            "algorithms": [choice.describe() for choice in self.algorithms],
            "notes": self.notes + finishing.notes + self.plan.store.notes,
            "unrecorded": unrecorded,
            "plain_operators": list(best.extraction.fallbacks),
            "worker_peak_bytes": statistics.peak_rss,
            "caches": self.machine.caches,
            "disturbance": statistics.disturbance(),
            "before_seconds": _first(self.tuner),
            "after_seconds": self.tuner.estimated_latency,
            "in_place": None if finishing.contest is None else finishing.contest.report,
            "final_race": None if finishing.race is None else finishing.race.report,
        }


def race_reserve(run: float, budget: Budget) -> float:
    """Seconds of a budget to leave for the final race of a network of which a run takes ``run`` seconds."""
    least, full = race_seconds(run)
    return full if budget.seconds is None else min(full, max(least, _RACING * budget.seconds))


def _holds_executable(out: Path) -> bool:
    """Whether there is an executable in a directory."""
    return os.path.isfile(out / "manifest.json")


def _open(records: str | Path | Store | None) -> tuple[FallbackStore, bool]:
    """The store, and whether it is ours to close."""
    if records is None:
        return FallbackStore(MemoryStore()), True
    if isinstance(records, str | Path):
        return open_for_tuning(records), True
    return (records if isinstance(records, FallbackStore) else FallbackStore(records)), False


def _first(tuner: NetworkTuner) -> float | None:
    """The estimated latency when every task had its first result: near what the default schedules give."""
    return next((latency for _, latency in tuner.curve if latency), None)
