"""The whole command: read, tune within the budget, build, check, write."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.errors import CheckError, SpaceError, TargetError
from tilewright.measure.pool import LocalPool
from tilewright.network.algorithms import Choice, choose
from tilewright.network.build import build, check_compiler
from tilewright.network.check import TOLERANCE, blame, network_error
from tilewright.network.executable import Executable
from tilewright.network.load import load
from tilewright.network.tasks import Extraction, extract
from tilewright.network.torch_model import SUFFIX, write_program
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Store
from tilewright.space.registry import make_space
from tilewright.target import Target
from tilewright.tuning.budget import Budget, RunningBudget
from tilewright.tuning.method import Method, default, known_beforehand
from tilewright.tuning.progress import Progress, SilentProgress
from tilewright.tuning.scheduler import NetworkTuner

__all__ = ["TuneResult", "tune"]

#: Seconds that the final build and check take, as measured: a constant, per task, per 100 MB of weights.
_RESERVE = (4.0, 0.2, 4.0)

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
            ``algorithms`` (of convolutions), ``disturbance`` ...
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
        records: a store or the file of one; None keeps the measurements in memory only.
        shapes: of symbolic inputs.
        seed: of everything random.
        method: how tasks are searched; by default :func:`tilewright.tuning.method.default` with the cost model that
            comes with Tilewright.
        cold_cache: time candidates with cold caches rather than warm ones. Records of both are kept apart.
        progress: is shown how it goes.
        began: ``time.monotonic()`` at the start of the command; now, if None.

    Raises:
        TilewrightError: as the parts do. Measurements made so far are in the store.
        CheckError: the outputs are wrong, and replacing the tasks to blame did not help.
    """
    running = budget.start(began=began)
    check_compiler()
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
    machine = replace(machine, cold=machine.cold or cold_cache)
    network = load(model, shapes)
    extraction = extract(network, machine)
    choices: list[Choice] = []
    loaded = running.elapsed
    store, ours = _open(records)
    show: Progress = progress or SilentProgress()
    try:
        with show, LocalPool(machine, on_measurement=lambda m: store.add([m])) as pool:
            choices = _choices(extraction, pool, store, running)
            if any(choice.chosen != "direct" for choice in choices):
                extraction = extract(network, machine, {choice.convolution: choice.chosen for choice in choices})
            for use in extraction.uses:
                store.describe(use.task)
            size = sum(recipe.size for recipe in extraction.rewritten.recipes) * 4e-8
            reserve = _RESERVE[0] + _RESERVE[1] * len(extraction.uses) + _RESERVE[2] * size
            rng = np.random.default_rng(seed)
            tuner = NetworkTuner(extraction.uses, machine, pool, store, running, rng, method=method, progress=show)
            tuner.run(reserve=reserve)
            statistics = pool.statistics
        tuned = running.elapsed
        functions, defaults = _functions(extraction, tuner)
        executable, error, blamed = _checked(extraction, functions, Path(out))
    finally:
        if ours:
            store.close()
    report = {
        **tuner.report(),
        "model": network.name,
        "target": machine.key,
        "machine": machine.machine,
        "cores": machine.cores,
        "date": time.strftime("%Y-%m-%d"),
        "budget_seconds": budget.seconds,
        "wall_seconds": running.elapsed,
        "load_seconds": loaded,
        "build_seconds": running.elapsed - tuned,
        "relative_error": error,
        "replaced_tasks": blamed,
        "default_tasks": defaults,
        "algorithms": [choice.describe() for choice in choices],
        "notes": notes,
        "plain_operators": list(extraction.fallbacks),
        "worker_peak_bytes": statistics.peak_rss,
        "caches": "cold" if machine.cold else "warm",
        "disturbance": statistics.disturbance(),
        "before_seconds": _first(tuner),
        "after_seconds": tuner.estimated_latency,
    }
    return TuneResult(executable, report)


def _choices(extraction: Extraction, pool: LocalPool, store: Store, running: RunningBudget) -> list[Choice]:
    """The algorithms of the network's convolutions, for a tenth of the budget; none where that is too little."""
    budget = running.budget
    seconds = _MOST_CHOOSING if budget.seconds is None else _CHOOSING * budget.seconds
    trials = math.inf if budget.trials is None else _CHOOSING * budget.trials
    if not extraction.rewritten.convolutions or seconds < _LEAST_CHOOSING or running.exhausted():
        return []
    nbytes = sum(array.nbytes for array in extraction.network.weights.values())
    choices, made = choose(
        extraction.rewritten.convolutions,
        extraction.target,
        pool,
        store,
        min(time.monotonic() + _STARTING + seconds, running.deadline),
        weight_bytes=nbytes,
        most_trials=trials,
    )
    running.spend(made)
    return choices


def _open(records: str | Path | Store | None) -> tuple[Store, bool]:
    """The store, and whether it is ours to close."""
    if records is None:
        return MemoryStore(), True
    if isinstance(records, str | Path):
        from tilewright.records import open_store

        return open_store(Path(records)), True
    return records, False


def _first(tuner: NetworkTuner) -> float | None:
    """The estimated latency when every task had its first result: near what the default schedules give."""
    return next((latency for _, latency in tuner.curve if latency), None)


def _functions(extraction: Extraction, tuner: NetworkTuner) -> tuple[dict[str, Any], list[str]]:
    """The best scheduled function by task key, and the names of the tasks that have only their default."""
    functions: dict[str, Any] = {}
    defaults = []
    for use in extraction.uses:
        found = tuner.tuners.get(use.task.key)
        try:
            space = found.space if found is not None else make_space(use.task, extraction.target)
            config = found.best_config if found is not None else None
            if config is None:
                defaults.append(use.task.name)
            functions[use.task.key] = space.schedule(space.default() if config is None else config).mod["main"]
        except SpaceError:
            defaults.append(use.task.name)  # built as TVM builds it, unscheduled
    return functions, defaults


def _checked(
    extraction: Extraction, functions: dict[str, Any], out: Path
) -> tuple[Executable, float | None, list[str]]:
    """Build and compare with the reference; tasks that spoil the result are replaced by their defaults."""
    names = {use.task.key: use.task for use in extraction.uses}
    # An executable keeps the model that it was made from: an ONNX model by itself, a PyTorch program by us.
    program = extraction.network.program
    kept = {} if program is None else {"model": f"model{SUFFIX}"}
    executable = build(extraction, functions, out, kept)
    error = network_error(executable, extraction.network)
    blamed: list[str] = []
    if error is not None and not error <= TOLERANCE:
        for key in blame(extraction, functions):
            space = make_space(names[key], extraction.target)
            functions[key] = space.schedule(space.default()).mod["main"]
            blamed.append(names[key].name)
        guilty_still = blame(extraction, {key: functions[key] for key in functions if names[key].name in blamed})
        for key in guilty_still:
            del functions[key]  # not even its default is right: TVM's own
        executable = build(extraction, functions, out, {**kept, "replaced": blamed})
        error = network_error(executable, extraction.network)
        if error is None or not error <= TOLERANCE:
            raise CheckError(
                f"outputs agree with the model's own to {TOLERANCE:g} of the largest, but these differ by {error:.3g} "
                f"also with the defaults of the tasks to blame ({', '.join(blamed) or 'none found'}); "
                f"do not use what is in {out}, and report the model"
            )
    if program is not None:
        write_program(program, out / f"model{SUFFIX}")
    return executable, error, blamed
