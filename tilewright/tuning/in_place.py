"""The last word on a task: its best schedules are timed in their places, while the network runs.

A kernel that is timed alone finds its weights and what it reads where the call before left them, and the machine in the
state of that moment. In the network it meets what the kernels before it left, in the caches of which core, and there
another one of a task's best schedules may be the fastest. So the network runs a few hundred times, each time with other
variants of all its kernels (:meth:`tilewright.executable.program.PlanProgram.contest`). That costs seconds: a variant
has only to be compiled, and each run times one of every task.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilewright.compare import peers
from tilewright.compiling.build import replace_kernels
from tilewright.compiling.kernels import Kernels
from tilewright.errors import CompilerError, MeasureError, OutputError, SpaceError
from tilewright.graph.buckets import Extracted
from tilewright.graph.tasks import Extraction
from tilewright.measure.outcome import robust_seconds
from tilewright.measure.peer_process import PeerProcess
from tilewright.space.guard import guard_space
from tilewright.tensor import random_arrays
from tilewright.tuning.report import ContestReport
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.selection import Selection
from tilewright.tuning.workshop import JudgedExecutable

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = ["ContestResult", "Variant", "contest", "in_place", "variants_of"]

#: Of the best configs of a task, so many take part.
_FINALISTS = 3
#: The share of the seconds in which the network runs; in the others variants are compiled.
_RUNNING = 0.4
#: A round in which every variant runs once is repeated so often, at least and at most.
_ROUNDS = (5, 400)


@dataclass(frozen=True)
class Variant:
    """One of the schedules of a task.

    Attributes:
        config: its config; None: the default.
        function: the scheduled PrimFunc.
    """

    config: tuple[int, ...] | None
    function: PrimFunc


@dataclass(frozen=True)
class ContestResult:
    """The result of a contest.

    Attributes:
        selection: of each task, the variant that is the fastest in its place.
        report: for the report of the command.
    """

    selection: Selection
    report: ContestReport


def contest(
    kernels: Kernels, tuner: NetworkTuner, tuned: JudgedExecutable, incumbent: JudgedExecutable, seconds: float
) -> ContestResult | None:
    """Time the best schedules of each task inside the running network; None where ``seconds`` are too few for that.

    Args:
        kernels: of both executables; their network has a plan.
        tuner: of the network.
        tuned: the executable of the best schedules.
        incumbent: the executable without tuning, whose kernels are compiled already.
        seconds: for compiling variants and for running the network, about.
    """
    compiling = incumbent.seconds / len(tuned.extraction.uses)
    most = int((1 - _RUNNING) * seconds / compiling)
    variants = variants_of(tuned.extraction, tuner, tuned.selection, incumbent.selection, most)
    # A round has as many runs as the task with the most variants has of them.
    runs = _ROUNDS[0] * max(map(len, variants.values()), default=0) * len(tuned.extraction.parts)
    least = runs * (tuner.estimated_latency or 0.0)
    if least > _RUNNING * seconds:
        return None
    return in_place(kernels, tuned, variants, _RUNNING * seconds)


def variants_of(
    extraction: Extracted, tuner: NetworkTuner, selection: Selection, known: Selection, most: int
) -> dict[str, list[Variant]]:
    """The schedules that take part, by ``Task.key``: what a task runs with, what it ran with before, and the next best.

    Args:
        extraction: the network.
        tuner: has tuned it.
        selection: what is to be built.
        known: what it is held against: the defaults, or earlier records.
        most: how many kernels may be compiled for it besides those of ``selection`` and ``known``. The heaviest tasks,
            by their latency, come first.
    """
    tuners = tuner.tuners
    uses = [use for use in extraction.uses if use.task.key in tuners and use.task.key in selection.functions]
    found: dict[str, list[Variant]] = {}
    for use in sorted(uses, key=lambda use: -use.weight * tuners[use.task.key].best_seconds):
        key, space = use.task.key, tuners[use.task.key].space
        default = tuple(int(index) for index in space.default())
        variants: dict[tuple[int, ...], Variant] = {}
        for former in (selection, known):
            if key in former.functions:
                config = former.configs.get(key)
                variants.setdefault(config or default, Variant(config, former.functions[key]))
        rows = [tuple(row) for row in tuner.finalists(key, _FINALISTS).tolist()] if most > 0 else []
        for row in rows:
            if row not in variants:
                try:
                    with guard_space(f"the design space of {space.task.name!r}"):
                        function = space.schedule(np.asarray(row, dtype=np.int32)).mod["main"]
                except SpaceError:
                    continue
                variants[row] = Variant(row, function)
                most -= len(use.functions)
        if len(variants) > 1:
            found[key] = list(variants.values())
    return found


def in_place(
    kernels: Kernels, tuned: JudgedExecutable, variants: Mapping[str, Sequence[Variant]], seconds: float
) -> ContestResult | None:
    """Time the variants of tasks in their places. None where that cannot be done; then nothing was lost.

    Args:
        kernels: of the executable.
        tuned: the executable of a network with a plan.
        variants: of some tasks, by ``Task.key``; what the executable runs with is the first one of each.
        seconds: that the network may run, about.
    """
    extraction, selection, aside = tuned.extraction, tuned.selection, tuned.folder.parent
    entries = [_enter(kernels, selection, part, bucket, variants) for bucket, part in enumerate(extraction.parts)]
    if not any(entry.names for entry in entries):
        return None
    depth = max(map(len, variants.values()))
    began = time.monotonic()
    layers = [{key: found[i].function for key, found in variants.items() if i < len(found)} for i in range(depth)]
    share = seconds / sum(bool(entry.names) for entry in entries)
    try:
        library = kernels.library(selection.functions, aside / "variants.so", layers)
        replace_kernels(tuned.folder, library, aside / "variants")
        taken = [
            _timed(aside / "variants", entry.names, share, extraction.target.cores, bucket) if entry.names else {}
            for bucket, entry in enumerate(entries)
        ]
    except (CompilerError, MeasureError, OutputError):
        return None
    finally:  # it may hold all weights once more
        shutil.rmtree(aside / "variants", ignore_errors=True)
    latencies: dict[str, list[float]] = {}
    for entry, times, factor in zip(entries, taken, extraction.factors, strict=True):
        for key, names in entry.places.items():
            sums = latencies.setdefault(key, [0.0] * len(variants[key]))
            for i in range(len(sums)):
                sums[i] += factor * sum(robust_seconds(tuple(times[name][i])) for name in names)
    winners = {key: variants[key][int(np.argmin(found))] for key, found in latencies.items()}
    tasks = {use.task.key: use.task for use in extraction.uses}
    configs = selection.configs | {key: variant.config for key, variant in winners.items()}
    report = ContestReport(
        tasks=len(winners),
        variants=sum(map(len, variants.values())),
        seconds=time.monotonic() - began,
        rounds=min(len(runs) for times in taken for found in times.values() for runs in found),
        exchanged=tuple(tasks[key].name for key in winners if configs[key] != selection.configs.get(key)),
        before_ms=1e3 * sum(found[0] for found in latencies.values()),
        after_ms=1e3 * sum(map(min, latencies.values())),
    )
    functions = selection.functions | {key: variant.function for key, variant in winners.items()}
    return ContestResult(Selection(functions, configs), report)


@dataclass(frozen=True)
class _Entry:
    """What takes part in a bucket.

    Attributes:
        names: by the name of a kernel in the library, the names of its variants.
        places: by ``Task.key``, the names of the task's kernels.
    """

    names: dict[str, list[str]]
    places: dict[str, list[str]]


def _enter(
    kernels: Kernels, selection: Selection, part: Extraction, bucket: int, variants: Mapping[str, Sequence[Variant]]
) -> _Entry:
    """The kernels of a bucket of which there are variants."""
    names = kernels.symbols(selection.functions, bucket)
    entry = _Entry({}, {})
    for use in part.uses:
        key = use.task.key
        symbols = [kernels.symbols({key: variant.function}, bucket) for variant in variants.get(key, ())]
        for kernel in use.functions:
            if symbols and kernel in names:
                entry.names[names[kernel]] = [found[kernel] for found in symbols]
                entry.places.setdefault(key, []).append(names[kernel])
    return entry


def _timed(
    executable: Path, entered: Mapping[str, Sequence[str]], seconds: float, threads: int, bucket: int
) -> dict[str, list[list[float]]]:
    """Seconds of each run by kernel and variant in a bucket, as the executable measures them in a process of its own.

    Raises:
        MeasureError: it cannot.
    """
    process = PeerProcess(threads)
    try:
        specs = process.start(peers.executable, (str(executable.absolute()), bucket))
        process.prepare(random_arrays(specs, 0))
        found = process.call("contest", dict(entered), seconds, *_ROUNDS)
    finally:
        process.kill()
    return dict(found)
