"""Prepares executables of parts, in a process of its own: what compiles and tunes never runs where the model trains."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.frontend.torch.part import Layout
from tilewright.training.options import Options

if TYPE_CHECKING:
    from tilewright.graph.tasks import Extraction
    from tilewright.records.store import Store
    from tilewright.tuning.selection import Selection

__all__ = ["Prepared", "Request", "prepare"]

#: Seconds of a budget that are kept for building the executable and trying it.
_FINISHING = 10.0


@dataclass(frozen=True)
class Request:
    """A part that is to be prepared.

    Attributes:
        name: of the part.
        module: its pickled module.
        inputs, outputs: the layouts of what it takes and gives.
        options: of the backend.
        seconds: that tuning may take; 0: it gets what the records hold, or defaults.
        out: the directory of the executable.
    """

    name: str
    module: bytes
    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    options: Options
    seconds: float
    out: Path


@dataclass(frozen=True)
class Prepared:
    """A part that is ready.

    Attributes:
        out: the directory of its executable, which has run once.
        tasks: the number of its tasks.
        tuned: how many of them run with something else than their default.
        trials: how many candidates were measured.
    """

    out: Path
    tasks: int
    tuned: int
    trials: int


def prepare(request: Request) -> Prepared:
    """Import, tune and build a part, and run its executable once. A process of its own calls this.

    Raises:
        TilewrightError: as the stages raise it.
    """
    # The process that trains imports this module, too, but needs none of these.
    from tilewright.compiling.build import build
    from tilewright.frontend.load import load_part
    from tilewright.graph.tasks import extract
    from tilewright.records.fallback import FallbackStore, open_for_tuning
    from tilewright.records.memory import MemoryStore
    from tilewright.target import Target

    network = load_part(request.name, pickle.loads(request.module), request.inputs, request.outputs)
    extraction = extract(network, Target.parse())
    records = request.options.records
    store = FallbackStore(MemoryStore()) if records is None else open_for_tuning(records)
    try:
        selection, trials = _select(extraction, request, store)
        store.settle()
    finally:
        store.close()
    executable = build(extraction, selection.functions, request.out, {})
    executable(*network.random_inputs())  # a crash costs this process, and no training
    return Prepared(request.out, len(extraction.uses), len(selection.tuned), trials)


def _select(extraction: Extraction, request: Request, store: Store) -> tuple[Selection, int]:
    """The schedule of each task, and how many candidates were measured for it."""
    import numpy as np

    from tilewright.measure.pool import LocalPool
    from tilewright.methods.default import known_beforehand
    from tilewright.methods.registry import make_method
    from tilewright.tuning.budget import Budget
    from tilewright.tuning.context import TuningContext
    from tilewright.tuning.scheduler import NetworkTuner
    from tilewright.tuning.selection import select_best, select_recorded

    if request.seconds <= _FINISHING or request.options.mode == "cached":
        return select_recorded(extraction, store), 0
    target = extraction.target
    method = make_method(request.options.method, known_beforehand()[0])
    with LocalPool(target, on_measurement=lambda measurement: store.add([measurement])) as pool:
        for use in extraction.uses:
            store.describe(use.task)
        context = TuningContext(target, pool, store, Budget(request.seconds).start(), np.random.default_rng(0))
        tuner = NetworkTuner(extraction.uses, context, method=method)
        tuner.run(reserve=_FINISHING)
        return select_best(extraction, tuner), tuner.trials
