"""The whole command: load, plan, tune, select, verify, publish."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tilewright.compiling.build import check_compiler, publish
from tilewright.errors import CheckError
from tilewright.executable.executable import Executable, load_executable
from tilewright.executable.replacing import holds_executable
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.reading import OnnxReading
from tilewright.frontend.shapes import ShapeRequest, Shapes, make_request
from tilewright.graph.buckets import Extracted, extract_buckets
from tilewright.interrupts import Hold, holding
from tilewright.measure.batch import PoolStatistics
from tilewright.measure.runner import NoRunner, Pool
from tilewright.methods.default import default, known_beforehand
from tilewright.methods.method import Method
from tilewright.records.fallback import FallbackStore, use_records
from tilewright.records.store import Store
from tilewright.target import Target
from tilewright.tuning.bucketing import read_buckets
from tilewright.tuning.budget import Budget, RunningBudget
from tilewright.tuning.budget_plan import (
    LEAST_MEASURING,
    BudgetPlan,
    Facts,
    plan_budget,
    reference_seconds,
    run_bound,
)
from tilewright.tuning.building import refuse_tuning
from tilewright.tuning.context import HasNodes, TuningContext, Workplace
from tilewright.tuning.finish import Finishing, FinishTimes
from tilewright.tuning.incumbent import build_incumbent
from tilewright.tuning.logging_kernels import list_functions, log_kernels
from tilewright.tuning.notebook_progress import default_progress
from tilewright.tuning.preparation import Preparation
from tilewright.tuning.report import StartReport, TuneReport
from tilewright.tuning.result import TuneResult
from tilewright.tuning.roofline import Roofline
from tilewright.tuning.run_log import LOG, RunLog, write_run
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.session_report import Outcomes, report_session
from tilewright.tuning.ways import Ways, choose_ways, has_choice, recorded_ways
from tilewright.tuning.workshop import Workshop
from tilewright.tvm_compat import wanted_threads
from tilewright.verify.checker import Checker
from tilewright.verify.verdict import Outcome

__all__ = ["tune"]


def tune(
    model: object,
    out: str | Path,
    *,
    budget: Budget | RunningBudget | str,
    target: str | Target | Workplace = "native",
    records: str | Path | Store | None = None,
    shapes: ShapeRequest | Shapes | Sequence[Shapes] | None = None,
    seed: int = 0,
    method: Method | None = None,
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
        budget: covers everything until the executable is written. A duration as :meth:`Budget.parse` reads it, such as
            "5m"; a :class:`Budget`; or one that was started, which may have somebody to show the progress to.
        target: what to tune for, and where. ``native:cold`` times with cold caches; its records are kept apart.
        records: a store, or the file or URL of one; None keeps the measurements in memory only. If the store fails
            while tuning, a note in the report says so. Measurements are then kept in memory, and handed over later if
            the store allows.
        shapes: the shapes of symbolic inputs, by name; several of them make an executable with several buckets; or what
            else is asked of the inputs.
        seed: the seed of all random numbers.
        method: how tasks are searched and what they share; by default :func:`tilewright.methods.default.default` with
            the cost model that comes with Tilewright.

    Raises:
        RecordsError: the store cannot be opened; one that can only be read costs a note.
        TargetError: there is no such target, or its code does not run on this machine.
        TilewrightError: as the parts do. Measurements made so far are in the store.
        CheckError: the outputs are wrong with default schedules, too; nothing was tuned.
        KeyboardInterrupt: no executable was written; an earlier one in ``out`` is untouched.
    """
    limits = Budget.parse(budget) if isinstance(budget, str) else budget
    running = limits if isinstance(limits, RunningBudget) else limits.start(progress=default_progress())
    check_compiler()
    wanted_threads()  # as the executable will be asked in the end
    notes: list[str] = []
    if method is None:
        prior, problem = known_beforehand()
        method = default(prior)
        notes += [problem] if problem else []
    place = Workplace.of(target)
    refuse_tuning(place.target)
    with ExitStack() as ending, ExitStack() as stack:
        stack.enter_context(running.progress)
        store, ours = use_records(records)
        if ours:
            stack.callback(store.close)
        # An ending without a kill hands over what the store has refused so far.
        stack.callback(store.settle)
        session = _Session(Path(out), running, store, method, np.random.default_rng(seed), place, stack, notes)
        try:
            session.load(model, make_request(shapes))
        except CheckError as error:
            error.report = {**vars(session.start_report()), **error.report}
            raise
        if not session.interrupted:
            try:
                session.plan()
                session.choose_algorithms()
                session.tune()
                session.select_and_verify()
            except KeyboardInterrupt:  # what was measured is in the store, and what is ready is published
                session.interrupted = True
        # From here to the end signals are held back: what is published is whole, and all is cleaned up.
        return session.publish(ending.enter_context(holding()))


@dataclass
class _Session:
    """One tuning of one network: what is known of it so far, and the steps that add to that."""

    out: Path
    budget: RunningBudget
    store: FallbackStore
    method: Method
    rng: np.random.Generator
    place: Workplace
    stack: ExitStack
    notes: list[str]
    interrupted: bool = False
    pool: Pool | None = None
    planned: BudgetPlan | None = None
    roofline: Roofline | None = None
    preparation: Preparation = field(default_factory=Preparation)
    ways: Ways = field(default_factory=Ways)
    algorithm_trials: int = 0
    network: Network | None = None
    extract_seconds: float = 0.0
    loaded: float = 0.0
    checked: float = 0.0
    tuned: float = 0.0

    def __post_init__(self) -> None:
        self.machine = self.place.target
        self.aside = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewright-")))
        self.log = self.stack.enter_context(closing(RunLog(self.budget, self.aside / LOG)))

    # Load: the network, its tasks, and the incumbent ------------------------------------------------------------------

    def load(self, model: object, request: ShapeRequest) -> None:
        """Load the model, build it as it would run without tuning, and judge that executable.

        An interrupt is held back where there would be no executable otherwise; then nothing is tuned.
        """
        hold = 0 if holds_executable(self.out) else 1
        with holding(hold, tell=self._tell_held) as held:
            self._read(model, request)
            self._build_incumbent()
        self.interrupted = bool(held.received)
        self.checked = self.budget.elapsed
        self.tuner = self._make_tuner()  # has nothing to report yet

    def _tell_held(self) -> None:
        self.budget.progress.announce(
            ["interrupted: the incumbent, which is not tuned, is finished first; interrupt again to end at once"]
        )

    def _read(self, model: object, request: ShapeRequest) -> None:
        budget, store = self.budget, self.store
        self.log.phase("reading")
        if budget.remaining_seconds >= LEAST_MEASURING:
            # Before the network is read: workers take seconds to start.
            pool = self.place.make_pool(self.machine, lambda m: store.add([m]))
            self.pool = self.log.pool = self.stack.enter_context(closing(pool))
        self.preparation = (model.preparation if isinstance(model, OnnxReading) else None) or self.preparation
        self.notes += self.preparation.notes
        budget.spend(self.preparation.trials)
        read = read_buckets(model, request)
        self.network, self.machine = read.networks[0], self.machine.with_weights(read.weight_bytes)
        if self.pool is not None:
            self.pool.weigh(read.weight_bytes)
        self.checker = self.stack.enter_context(Checker(read.networks, reference_seconds(budget.budget), read.samples))
        before = budget.elapsed
        self.extraction: Extracted = extract_buckets(read.networks, self.machine, read.shares)
        self.network = self.extraction.network
        self.loaded = budget.elapsed
        self.extract_seconds = self.loaded - before

    def _build_incumbent(self) -> None:
        """Build and judge what the network runs with before it is tuned: the incumbent."""
        self.log.phase("incumbent")
        self._use_ways(recorded_ways(self.extraction, self.machine, self.store))
        built = build_incumbent(self.extraction, self.checker, self.aside, self.store)
        if built.extraction is not self.extraction:
            self.extraction, self.network, self.ways = built.extraction, built.extraction.network, Ways()
        self.workshop, self.incumbent = built.workshop, built.executable
        self.notes += built.notes
        self.finishing = Finishing(self.workshop, self.incumbent)
        if self.incumbent.verdict.outcome is Outcome.UNDECIDABLE:
            self.notes.append(f"it is not decidable whether the outputs are right: {self.incumbent.verdict.evidence}")

    def _use_ways(self, ways: Ways) -> None:
        """Exchange the functions for which other ways were chosen than they have."""
        if not ways.same(self.ways):
            self.extraction = ways.apply(self.extraction)
        self.ways = ways

    # Plan -------------------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Divide the budget among the steps that follow, and show how."""
        self.log.phase("limits of the machine")
        self.roofline = None if self.pool is None else self.place.find_roofline()
        parts = self.extraction.parts
        flop = sum(use.weight * use.task.flop for part in parts for use in part.uses) / len(parts)
        facts = Facts(
            read_seconds=self.loaded,
            incumbent_seconds=self.budget.elapsed - self.loaded,
            extract_seconds=self.extract_seconds,
            compile_seconds=self.incumbent.seconds,
            tasks=len(self.extraction.uses),
            weight_bytes=4 * sum(recipe.size for recipe in {r for part in parts for r in part.recipes}),
            run_seconds=math.inf if self.roofline is None else run_bound(flop, self.roofline.reachable),
            chooses=self.pool is not None and has_choice(self.extraction),
            # With cold caches there is nothing that a kernel could find in its place.
            races_runtime=self.network is not None and self.network.onnx is not None and self._is_own_cpu(),
            places=all(part.plan is not None for part in parts) and self.machine.caches != "cold",
            buckets=len(parts),
        )
        self.planned = plan_budget(self.budget.budget, facts)
        self.budget.progress.announce(["plan of the budget:", *str(self.planned).splitlines()], detail=True)

    def _is_own_cpu(self) -> bool:
        """Whether the target is this machine's CPU. ONNX Runtime uses all of this CPU, whatever the target has."""
        own = Target.parse()
        if (self.machine.mcpu, self.machine.without) == (own.mcpu, own.without):
            return True
        self.notes.append(
            f"the executable was not raced against ONNX Runtime, which would use more of this processor ({own.mcpu}) "
            f"than {self.machine.mcpu} has"
        )
        return False

    # Tune -------------------------------------------------------------------------------------------------------------

    def choose_algorithms(self) -> None:
        """Measure in which ways operators can be computed, and compute each one in the fastest."""
        plan, budget = self.planned, self.budget
        if plan is None or self.pool is None or plan.algorithms.seconds <= 0.0 or budget.exhausted():
            return
        self.log.phase("algorithms")
        until, trials = time.monotonic() + plan.algorithms.seconds, plan.most_algorithm_trials
        ways = choose_ways(self.extraction, self.machine, self.pool, self.store, until, trials)
        budget.spend(ways.trials)
        self.algorithm_trials = ways.trials
        self._use_ways(ways)

    def tune(self) -> None:
        """Tune the tasks until the rest of the budget is needed for what comes after."""
        assert self.planned is not None
        self.log.phase("design spaces")
        self.log.network(list_functions(self.extraction))
        for use in self.extraction.uses:
            self.store.describe(use.task)
        self.tuner = self._make_tuner()
        with self.tuner.interruptible():
            self.tuner.prepare()
            self.budget.progress.announce(self.tuner.plan())
            self.tuner.run(reserve=self.planned.after_rounds, finalist_seconds=self.planned.finalists.seconds)
        if self.pool is not None:
            self.pool.close()  # nothing else of ours runs in the final race
        self.tuned = self.budget.elapsed

    def _make_tuner(self) -> NetworkTuner:
        runner = NoRunner() if self.pool is None else self.pool
        context = TuningContext(self.machine, runner, self.store, self.budget, self.rng, self.log)
        return NetworkTuner(self.extraction.uses, context, method=self.method, roofline=self.roofline)

    # Select and verify ------------------------------------------------------------------------------------------------

    def select_and_verify(self) -> None:
        """Build and judge an executable of the best schedules, and race it against the incumbent."""
        plan, workshop = self.planned, self.workshop
        assert plan is not None
        if self.extraction is not self.incumbent.extraction:
            workshop = Workshop(self.extraction, self.checker, self.aside, "tuned")
        self.finishing = Finishing(workshop, self.incumbent, log=self.log)
        times = FinishTimes(
            checking=plan.checking.seconds,
            placing=plan.in_place.seconds,
            until=self.budget.deadline - plan.after_race_seconds,
            racing=plan.race.seconds > 0.0,
            runtime=plan.runtime.seconds,
        )
        self.finishing.run(self.tuner, times, short=self.tuner.interrupted)
        if self.finishing.best is not self.incumbent and self.finishing.race is None and not self.tuner.interrupted:
            self.finishing.notes.append(
                "the tuned executable was not raced against the incumbent: the rest of the budget was too short"
            )

    # Publish ----------------------------------------------------------------------------------------------------------

    def publish(self, held: Hold) -> TuneResult:
        """Write the best executable into the output directory, and report.

        Args:
            held: holds back all signals.

        Raises:
            OutputError: it cannot be written.
        """
        self.interrupted |= self.tuner.interrupted
        self.log.phase("publishing")
        best = self.finishing.best
        untuned = best is self.incumbent
        # An earlier executable may have been tuned for long, and this command was not given its time.
        keep = untuned and self.interrupted and not self.tuner.trials and holds_executable(self.out)
        if not keep:
            names = {use.task.key: use.task.name for use in best.extraction.uses}
            about = {"verdict": best.verdict.report(), "replaced": [names[key] for key in best.replaced]}
            publish(best.folder, self.out, about)
        self.store.settle()
        unrecorded = self.store.kept
        executable = load_executable(self.out)
        self.interrupted |= bool(held.received)
        runtime = self.finishing.runtime_race
        tuned = "onnxruntime" if runtime is not None and runtime.kept == "onnxruntime" else "tuned"
        published = "earlier" if keep else "incumbent" if untuned else tuned
        if not keep:
            self.log.network(list_functions(best.extraction))
            if not self.interrupted:
                log_kernels(self.log, executable)
        self.log.end()
        report = self._report(published, unrecorded, executable)
        if not keep:
            write_run(self.out, report, self.log, self.store)
        return TuneResult(executable, report)

    def start_report(self) -> StartReport:
        """The part of the report that is known before tuning, or when no executable is right."""
        return StartReport(
            model=None if self.network is None else self.network.name,
            target=self.machine.key,
            machine=self.machine.machine,
            cores=self.machine.cores,
            date=time.strftime("%Y-%m-%d"),
            budget_seconds=self.budget.budget.seconds,
            wall_seconds=self.budget.elapsed,
            load_seconds=self.loaded,
            notes=(*self.notes, *self.store.notes),
        )

    def _report(self, published: str, unrecorded: int, executable: Executable) -> TuneReport:
        return report_session(
            Outcomes(
                start=self.start_report(),
                tuner=self.tuner,
                finishing=self.finishing,
                extraction=self.extraction,
                plan=self.planned,
                algorithms=self.ways.choices,
                algorithm_trials=self.algorithm_trials,
                statistics=PoolStatistics() if self.pool is None else self.pool.statistics,
                check_seconds=self.checked - self.loaded,
                build_seconds=self.budget.elapsed - (self.tuned or self.budget.elapsed),
                caches=self.machine.caches,
                interrupted=self.interrupted,
                published=published,
                unrecorded=unrecorded,
                nodes=self.pool.nodes if isinstance(self.pool, HasNodes) else (),
                preparation=self.preparation,
                executable=executable,
            )
        )
