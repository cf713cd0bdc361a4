"""Prepares executables of parts, in a process of its own: what compiles and tunes never runs where the model trains."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.frontend.torch.part import Layout
from tilewright.training.options import Options

if TYPE_CHECKING:
    from tilewright.graph.tasks import Extraction
    from tilewright.tuning.selection import Selection

__all__ = ["Preparation", "Prepared", "Request"]

#: Seconds of a budget that are kept for building the executable and trying it.
_FINISHING = 10.0


@dataclass(frozen=True)
class Request:
    """A part that is to be prepared.

    Attributes:
        name: of the part.
        module: its pickled module.
        inputs, outputs: the layouts of what it takes and gives.
        seconds: that tuning may take; 0: it gets what the records hold, or defaults.
    """

    name: str
    module: bytes
    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    seconds: float


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


class Preparation:
    """Prepares parts, one after the other, in a process of its own.

    Args:
        options: of the backend.

    Raises:
        TilewrightError: the records cannot be opened.
    """

    def __init__(self, options: Options) -> None:
        # The process that trains imports this module, too, but needs none of these.
        from tilewright.records.fallback import FallbackStore, open_for_tuning
        from tilewright.records.memory import MemoryStore
        from tilewright.target import Target

        if options.mode == "background" and hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # the training comes first
        self._options, self._target = options, Target.parse()
        records = options.records
        self._store = FallbackStore(MemoryStore()) if records is None else open_for_tuning(records)

    def prepare(self, request: Request, out: Path) -> Prepared:
        """Import, tune and build a part, and run its executable once.

        Args:
            request: the part.
            out: the directory of the executable, which is made.

        Raises:
            TilewrightError: as the stages raise it.
        """
        from tilewright.compiling.build import build
        from tilewright.frontend.load import load_part
        from tilewright.graph.tasks import extract

        network = load_part(request.name, pickle.loads(request.module), request.inputs, request.outputs)
        extraction = extract(network, self._target)
        selection, trials = self._select(extraction, request.seconds)
        self._store.settle()
        executable = build(extraction, selection.functions, out, {})
        executable(*network.random_inputs())  # a crash costs this process, and no training
        return Prepared(out, len(extraction.uses), len(selection.tuned), trials)

    def _select(self, extraction: Extraction, seconds: float) -> tuple[Selection, int]:
        """The schedule of each task, and how many candidates were measured for it."""
        import numpy as np

        from tilewright.measure.pool import LocalPool
        from tilewright.methods.default import known_beforehand
        from tilewright.methods.registry import make_method
        from tilewright.tuning.budget import Budget
        from tilewright.tuning.context import TuningContext
        from tilewright.tuning.scheduler import NetworkTuner
        from tilewright.tuning.selection import select_best, select_recorded

        store, target = self._store, self._target
        if seconds <= _FINISHING or self._options.mode == "cached":
            return select_recorded(extraction, store), 0
        method = make_method(self._options.method, known_beforehand()[0])
        with LocalPool(target, on_measurement=lambda measurement: store.add([measurement])) as pool:
            for use in extraction.uses:
                store.describe(use.task)
            context = TuningContext(target, pool, store, Budget(seconds).start(), np.random.default_rng(0))
            tuner = NetworkTuner(extraction.uses, context, method=method)
            tuner.run(reserve=_FINISHING)
            return select_best(extraction, tuner), tuner.trials
