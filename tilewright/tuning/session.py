"""The whole command: read, tune within the budget, build, check, write."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.errors import TargetError
from tilewright.measure.pool import LocalPool, PoolStatistics
from tilewright.measure.runner import NoRunner, Runner
from tilewright.network.algorithms import Choice, choose
from tilewright.network.build import check_compiler
from tilewright.network.executable import Executable, wanted_threads
from tilewright.network.kernels import Kernels
from tilewright.network.load import load
from tilewright.network.tasks import Extraction, extract
from tilewright.records.fallback import FallbackStore, open_for_tuning
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Store
from tilewright.target import Target
from tilewright.tuning.budget import Budget, RunningBudget
from tilewright.tuning.choice import chosen
from tilewright.tuning.finish import Incumbent, finished, race_seconds
from tilewright.tuning.method import Method, default, known_beforehand
from tilewright.tuning.progress import Progress, SilentProgress
from tilewright.tuning.roofline import Roofline, measure_roofline
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.sharing import Sharing

__all__ = ["IN_PLACE", "TuneResult", "tune"]

#: Seconds that compiling the executable takes, as measured: a constant and per task; and that writing and checking it
#: take: a constant and per byte of weights.
_COMPILING, _WRITING = (1.5, 0.1), (2.0, 4e-8)
#: The same again may take so many times as long beside a noisy neighbour.
_DOUBT = 1.3
#: What tuning is held against is compiled where the rest of the budget is so many times what finishing takes.
_INCUMBENT = 4.0
#: The share of the budget for comparing winners with defaults on several kinds of data, the seconds that it may take
#: where the budget has no end, and what a task takes.
_CHECKING, _MOST_CHECKING, _CHECKING_TASK = 0.03, 60.0, 0.4
#: The share of the budget for timing a task's best schedules in their places, and seconds where the budget has no end.
IN_PLACE, _MOST_IN_PLACE = 0.06, 20.0
#: A budget of fewer seconds is too short to measure anything: half of it goes by until workers are there.
_LEAST_MEASURING = 10.0
#: The share of the machine's speed that a network has at least before the final race; and the share of the budget for
#: that race, unless three turns take longer.
_HALF_WAY, _RACING = 0.5, 0.1
#: The share of the budget for choosing algorithms of convolutions; the seconds it may take where the budget has no
#: end; and the seconds below which it is not begun, for a convolution takes 2 to 5.
_CHOOSING, _MOST_CHOOSING, _LEAST_CHOOSING = 0.1, 60.0, 3.0
#: Seconds in which workers start, which tuning would wait for as well.
_STARTING = 3.0


@dataclass(frozen=True)
class TuneResult:
    """What came of tuning a network.

    Attributes:
        executable: the executable that was written.
        report: JSON-able: ``wall_seconds``, ``trials``, ``trials_per_second``, ``failures``, ``tasks``, ``curve``,
            ``algorithms`` (of convolutions), ``final_race``, ``disturbance`` ...
    """

    executable: Executable
    report: dict[str, Any]


def tune(
    model: Any,
    out: str | Path,
    *,
    budget: Budget,
    target: str | Target = "native",
    records: str | Path | Store | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    method: Method | None = None,
    sharing: Sharing | bool = True,
    cold_cache: bool = False,
    progress: Progress | None = None,
    began: float | None = None,
) -> TuneResult:
    """Tune a network within ``budget`` and write its executable into the directory ``out``.

    Args:
        model: what :func:`tilewright.network.load.load` takes.
        out: the directory to write; replaced if it is there.
        budget: covers everything, from ``began`` to the written executable.
        target: what to tune for.
        records: a store, or the file or URL of one; None keeps the measurements in memory only. A store that fails
            while tuning costs a note in the report: measurements are then kept in memory, and handed over if it can be.
        shapes: of symbolic inputs.
        seed: of everything random.
        method: how tasks are searched; by default :func:`tilewright.tuning.method.default` with the cost model that
            comes with Tilewright.
        sharing: what tasks borrow from each other and from earlier networks in the records; True: as ``Sharing()``
            says, False: nothing.
        cold_cache: time candidates with cold caches rather than warm ones. Records of both are kept apart.
        progress: is shown how it goes.
        began: ``time.monotonic()`` at the start of the command; now, if None.

    Raises:
        RecordsError: the store cannot be opened; one that can only be read costs a note.
        TilewrightError: as the parts do. Measurements made so far are in the store.
        CheckError: the outputs are wrong, and replacing the tasks to blame did not help.
    """
    running = budget.start(began=began)
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
    machine = replace(machine, caches="cold") if cold_cache else machine
    out = Path(out)
    with ExitStack() as stack:
        aside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewright-")))
        store, ours = _open(records)
        if ours:
            stack.callback(store.close)
        # An ending without a kill hands over what the store has refused so far.
        stack.callback(store.settle)
        pool = None
        if budget.seconds is None or running.remaining_seconds >= _LEAST_MEASURING:
            # Before the network is read: workers take seconds to start.
            pool = stack.enter_context(LocalPool(machine, on_measurement=lambda m: store.add([m])))
        network = load(model, shapes)
        machine = machine.with_weights(network.weight_bytes)
        if pool is not None:
            pool.weigh(network.weight_bytes)
        before = running.elapsed
        extraction = extract(network, machine)
        loaded = running.elapsed
        show: Progress = stack.enter_context(progress or SilentProgress())
        runner: Runner = NoRunner()
        algorithms: list[Choice] = []
        roofline, choosing, interrupted = None, 0, False
        if pool is not None:
            runner = pool
            try:
                # Extracting once more takes as long as before, and making design spaces about that as well.
                algorithms, choosing = _choices(extraction, pool, store, running, 2.0 * (loaded - before))
                roofline = measure_roofline(machine.cores)
            except KeyboardInterrupt:  # what was measured is in the store
                interrupted = True
        if any(choice.chosen != "direct" for choice in algorithms):
            extraction = extract(network, machine, {choice.convolution: choice.chosen for choice in algorithms})
        for use in extraction.uses:
            store.describe(use.task)
        tuner = NetworkTuner(
            extraction.uses,
            machine,
            runner,
            store,
            running,
            np.random.default_rng(seed),
            method=method,
            progress=show,
            sharing=Sharing() if sharing is True else sharing or None,
            roofline=roofline,
        )
        tuner.interrupted = interrupted
        kernels = Kernels(extraction, aside / "kernels")
        incumbent, placing = None, 0.0
        checking = _MOST_CHECKING if budget.seconds is None else _CHECKING * budget.seconds
        checking = min(checking, _CHECKING_TASK * len(extraction.uses))
        with tuner.interruptible():
            tuner.prepare()
            show.announce(tuner.plan())
            reserve = _finishing(extraction)
            racing = _race_reserve(extraction, roofline, budget)
            if not interrupted and running.remaining_seconds >= _INCUMBENT * max(reserve, racing):
                incumbent = Incumbent.compiled(kernels, chosen(extraction, tuner), aside)
            if incumbent is not None:
                reserve = _finishing(extraction, incumbent.seconds) + racing
                # With cold caches there is nothing that a kernel could find in its place.
                if extraction.plan is not None and machine.caches != "cold":
                    placing = _MOST_IN_PLACE if budget.seconds is None else IN_PLACE * budget.seconds
            tuner.run(reserve=reserve + placing + checking)
        statistics = PoolStatistics() if pool is None else pool.statistics
        if pool is not None:
            pool.close()  # nothing else of ours runs in the final race
        tuned = running.elapsed
        until = running.deadline - _writing(extraction)
        done = finished(extraction, tuner, kernels, incumbent, out, aside, checking, placing, until)
        store.settle()
        unrecorded = store.kept
    names = {use.task.key: use.task.name for use in extraction.uses}
    report = {
        **tuner.report(),
        "algorithm_trials": choosing,
        "model": network.name,
        "target": machine.key,
        "machine": machine.machine,
        "cores": machine.cores,
        "date": time.strftime("%Y-%m-%d"),
        "budget_seconds": budget.seconds,
        "wall_seconds": running.elapsed,
        "load_seconds": loaded,
        "build_seconds": running.elapsed - tuned,
        "relative_error": done.error,
        "replaced_tasks": [names[key] for key in done.blamed],
        "wrong_kernels": {names[key]: reason for key, reason in done.check.wrong.items()},
        "unchecked_kernels": [names[key] for key in done.check.unchecked],
        "default_tasks": [name for key, name in names.items() if done.choice.configs.get(key) is None],
        "algorithms": [choice.describe() for choice in algorithms],
        "notes": notes + store.notes,
        "unrecorded": unrecorded,
        "plain_operators": list(extraction.fallbacks),
        "worker_peak_bytes": statistics.peak_rss,
        "caches": machine.caches,
        "disturbance": statistics.disturbance(),
        "before_seconds": _first(tuner),
        "after_seconds": tuner.estimated_latency,
        "in_place": None if done.contest is None else done.contest.report,
        "final_race": None if done.verdict is None else done.verdict.report,
    }
    return TuneResult(done.executable, report)


def _finishing(extraction: Extraction, compiling: float | None = None) -> float:
    """Seconds that compiling, writing and checking the executable take; ``compiling``: what the same took before."""
    if compiling is None:
        compiling = _COMPILING[0] + _COMPILING[1] * len(extraction.uses)
    return _writing(extraction) + _DOUBT * compiling


def _writing(extraction: Extraction) -> float:
    """Seconds that writing and checking the executable take."""
    return _WRITING[0] + _WRITING[1] * 4 * sum(recipe.size for recipe in extraction.rewritten.recipes)


def _race_reserve(extraction: Extraction, roofline: Roofline | None, budget: Budget) -> float:
    """Seconds to leave for the final race; inf where nobody knows what it takes."""
    if roofline is None:
        return math.inf
    # About the longest that a run will take.
    run = sum(use.weight * use.task.flop for use in extraction.uses) / (_HALF_WAY * roofline.flops)
    least, full = race_seconds(run)
    return full if budget.seconds is None else min(full, max(least, _RACING * budget.seconds))


def _choices(
    extraction: Extraction, pool: LocalPool, store: Store, running: RunningBudget, following: float
) -> tuple[list[Choice], int]:
    """The algorithms of the network's convolutions, for a tenth of the budget; none where that is too little.

    Args:
        extraction: the network.
        pool: measures.
        store: earlier measurements.
        running: the budget.
        following: seconds that are needed after it in any case, besides finishing.

    Returns:
        the choices, and how many candidates were measured.
    """
    budget, reserve = running.budget, following + _finishing(extraction)
    seconds = _MOST_CHOOSING if budget.seconds is None else _CHOOSING * budget.seconds
    trials = math.inf if budget.trials is None else _CHOOSING * budget.trials
    if not extraction.rewritten.convolutions or seconds < _LEAST_CHOOSING or running.exhausted(reserve):
        return [], 0
    choices, made = choose(
        extraction.rewritten.convolutions,
        extraction.target,
        pool,
        store,
        min(time.monotonic() + _STARTING + seconds, running.deadline - reserve),
        most_trials=trials,
    )
    running.spend(made)
    return choices, made


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
