"""Prepares executables of parts, in a process of its own: what compiles and tunes never runs where the model trains."""

from __future__ import annotations

import contextlib
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.errors import TilewrightError
from tilewright.frontend.torch.part import Layout
from tilewright.training.cache import ENTRY, find_folder, remove_oldest
from tilewright.training.options import Options
from tilewright.training.slots import SlotFile, hold

if TYPE_CHECKING:
    from tilewright.compiling.kernels import Kernels
    from tilewright.executable.executable import Executable
    from tilewright.frontend.network import Network
    from tilewright.graph.tasks import Extraction
    from tilewright.measure.pool import LocalPool
    from tilewright.task import Task
    from tilewright.tuning.budget import RunningBudget
    from tilewright.tuning.scheduler import NetworkTuner
    from tilewright.tuning.selection import Selection
    from tilewright.tuning.task_state import TaskUse

__all__ = ["Preparation", "Prepared", "Request", "Tuned"]

#: Seconds of a budget that are kept for building the executable and trying it.
_FINISHING = 10.0
#: Seconds that building and running a candidate may take while the training has the processors.
_PATIENCE = 600.0
#: A part is built again if its kernels are faster by this share of their time, as far as they were timed.
_NOTEWORTHY = 0.03
#: The largest difference between the results of two executables of a part, relative to the largest number.
_AGREEMENT = 1e-4


@dataclass(frozen=True)
class Request:
    """A part that is to be prepared.

    Attributes:
        name: of the part.
        module: its pickled module.
        inputs, outputs: the layouts of what it takes and gives.
        seconds: that tuning may take now; 0: it gets what the records hold, or defaults.
        key: of its executable in the cache.
    """

    name: str
    module: bytes
    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    seconds: float = 0.0
    key: str = ""


@dataclass(frozen=True)
class Prepared:
    """A part that is ready.

    Attributes:
        key: as its request has it.
        out: the directory of its executable, which has run once.
        tasks: the number of its tasks.
        tuned: how many of them run with something else than their default.
        trials: how many candidates were measured.
        checked: whether its results were those of the executable before.
    """

    key: str
    out: Path
    tasks: int
    tuned: int
    trials: int
    checked: bool = False


@dataclass(frozen=True)
class Tuned:
    """What some seconds of tuning brought.

    Attributes:
        trials: candidates that were measured so far.
        latency: what all kernels take together in seconds, as far as they were timed alone; None: not known yet.
        live: whether more tuning may bring more.
    """

    trials: int
    latency: float | None
    live: bool


@dataclass
class _Part:
    """A part that is known.

    Attributes:
        network: the part as a network.
        extraction: its tasks.
        kernels: those that were compiled.
        configs: of the executable that was built last, by ``Task.key``.
        out: its directory; None: it comes from the cache.
        version: how many were built.
    """

    network: Network
    extraction: Extraction
    kernels: Kernels
    configs: dict[str, tuple[int, ...] | None]
    out: Path | None = None
    version: int = 0


@dataclass(frozen=True)
class _Use:
    """A task of several parts, with the number of its calls in all of them."""

    task: Task
    weight: float


class Preparation:
    """Prepares parts and tunes their kernels, in a process of its own.

    Args:
        options: of the backend.
        folder: for object files and executables, which another process removes in the end.

    Raises:
        TilewrightError: the records cannot be opened.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        # The process that trains imports this module, too, but needs none of these.
        from tilewright.records.fallback import FallbackStore, open_for_tuning
        from tilewright.records.memory import MemoryStore
        from tilewright.target import Target

        self._slots = SlotFile(folder / "slots") if options.mode == "background" else None
        self._options, self._folder, self._target = options, folder, Target.parse()
        records = options.records
        self._store = FallbackStore(MemoryStore()) if records is None else open_for_tuning(records)
        self._cache = find_folder(options)
        self._parts: dict[str, _Part] = {}
        self._pool: LocalPool | None = None
        self._tuner: NetworkTuner | None = None
        self._budget: RunningBudget | None = None
        self._trials = 0

    def learn(self, request: Request) -> None:
        """Import a part and find its tasks, so that :meth:`tune` can tune them. Raises as the stages do."""
        from tilewright.compiling.kernels import Kernels
        from tilewright.frontend.load import load_part
        from tilewright.graph.tasks import extract
        from tilewright.tuning.selection import select_recorded

        network = load_part(request.name, pickle.loads(request.module), request.inputs, request.outputs)
        extraction = extract(network, self._target)
        kernels = Kernels(extraction, self._folder / f"objects-{len(self._parts)}")
        configs = {} if request.seconds else select_recorded(extraction, self._store).configs
        self._parts[request.key] = _Part(network, extraction, kernels, configs)
        self._conclude()

    def prepare(self, request: Request) -> Prepared:
        """Import, tune and build a part, and run its executable once.

        Raises:
            TilewrightError: as the stages raise it.
        """
        from tilewright.tuning.selection import select_best, select_recorded

        self.learn(request)
        part = self._parts[request.key]
        if request.seconds <= _FINISHING or self._options.mode == "cached":
            return self._build(request.key, part, select_recorded(part.extraction, self._store), 0.0, 0)
        tuner = self._make_tuner(part.extraction.uses, request.seconds)
        tuner.run(reserve=_FINISHING)
        self._store.settle()
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        selection = select_best(part.extraction, tuner)
        return self._build(request.key, part, selection, self._options.seconds, tuner.trials)

    def tune(self, trials: int, seconds: float) -> Tuned:
        """Tune the kernels of all parts that are known.

        Args:
            trials: candidates that may be measured before this returns.
            seconds: that are left of the budget.
        """
        if self._tuner is None:
            found: dict[str, _Use] = {}
            for part in self._parts.values():
                for use in part.extraction.uses:
                    weight = use.weight + (found[use.task.key].weight if use.task.key in found else 0)
                    found[use.task.key] = _Use(use.task, weight)
            self._tuner = self._make_tuner(list(found.values()), seconds, trials)
        tuner = self._tuner
        before = tuner.trials
        assert self._budget is not None
        self._budget.trials = 0  # the next few
        tuner.run(finalists=0)
        self._store.settle()
        return Tuned(self._trials + tuner.trials, tuner.estimated_latency, tuner.trials > before)

    def improve(self, spent: float, last: bool) -> list[Prepared]:
        """Build those parts again whose kernels have become faster.

        Args:
            spent: seconds of the budget that were spent so far, for the cache.
            last: whether even small gains count.
        """
        from tilewright.tuning.selection import select_best

        found: list[Prepared] = []
        tuner = self._tuner
        for key, part in self._parts.items() if tuner is not None else ():
            assert tuner is not None
            selection = select_best(part.extraction, tuner)
            gain = self._gain(part, selection, tuner)
            if gain >= (_NOTEWORTHY if not last else _NOTEWORTHY / 3):
                with contextlib.suppress(TilewrightError):  # it keeps the kernels that it has
                    found.append(self._build(key, part, selection, spent, self._trials + tuner.trials))
            elif last:
                self._keep(key, part, spent)
        return found

    def _gain(self, part: _Part, selection: Selection, tuner: NetworkTuner) -> float:
        """The share of a part's time that new kernels save, as far as they were timed."""
        import numpy as np

        before = after = 0.0
        for use in part.extraction.uses:
            known = tuner.tuners.get(use.task.key)
            if known is None or known.best_config is None:
                continue
            default = tuple(int(index) for index in known.space.default())
            config = part.configs.get(use.task.key) or default
            after += use.weight * known.best_seconds
            former = float(known.known(np.asarray([config], dtype=np.int32))[0])
            before += use.weight * (former if former > known.best_seconds else known.best_seconds)
        return 1.0 - after / before if before else 0.0

    def _make_tuner(self, uses: Sequence[TaskUse], seconds: float, trials: int | None = None) -> NetworkTuner:
        import numpy as np

        from tilewright.measure.pool import LocalPool
        from tilewright.methods.default import known_beforehand
        from tilewright.methods.registry import make_method
        from tilewright.tuning.budget import Budget
        from tilewright.tuning.context import TuningContext
        from tilewright.tuning.scheduler import NetworkTuner

        store, slots = self._store, self._slots
        if self._pool is None:
            self._pool = LocalPool(
                self._target,
                build_timeout=_PATIENCE if slots else 10.0,
                run_timeout=_PATIENCE if slots else 10.0,
                on_measurement=lambda measurement: store.add([measurement]),
                exclusive=partial(hold, slots) if slots else None,
            )
        for part in self._parts.values():
            for use in part.extraction.uses:
                store.describe(use.task)
        self._budget = Budget(max(seconds, 1.0), trials).start()
        context = TuningContext(self._target, self._pool, store, self._budget, np.random.default_rng(0))
        method = make_method(self._options.method, known_beforehand()[0])
        return NetworkTuner(uses, context, method=method)

    def _conclude(self) -> None:
        """The tasks have changed: the next tuning begins with what the records hold."""
        if self._tuner is not None:
            self._trials += self._tuner.trials
            self._tuner = None

    def _build(self, key: str, part: _Part, selection: Selection, spent: float, trials: int) -> Prepared:
        """Build a part, and run it once: a crash costs this process, and no training."""
        from tilewright.compiling.build import build
        from tilewright.executable.executable import load_executable

        former = part.out
        out = self._folder / f"{list(self._parts).index(key)}-{part.version}"
        executable = build(part.extraction, selection.functions, out, {}, part.kernels)
        before = None if former is None else load_executable(former)
        checked = _agree(part.network, executable, before)
        if former is not None:
            shutil.rmtree(former, ignore_errors=True)
        part.configs, part.out, part.version = dict(selection.configs), out, part.version + 1
        self._keep(key, part, spent)
        return Prepared(key, out, len(part.extraction.uses), len(selection.tuned), trials, checked)

    def _keep(self, key: str, part: _Part, spent: float) -> None:
        """Put the executable of a part into the cache. If that fails, the next run starts slower."""
        from tilewright.compiling.build import publish

        if self._cache is None or part.out is None:
            return
        with contextlib.suppress(TilewrightError, OSError):
            self._cache.mkdir(parents=True, exist_ok=True)
            publish(part.out, self._cache / key, {ENTRY: {"spent": round(spent, 1)}})
            remove_oldest(self._cache)


def _agree(network: Network, executable: Executable, before: Executable | None) -> bool:
    """Run an executable on random inputs. Returns whether its results are those of another one."""
    from tilewright.measure.compare import relative_error

    arrays = network.random_inputs()
    found = executable(*arrays)
    if before is None:
        return False
    wanted = before(*arrays)
    return all(relative_error(a, b) <= _AGREEMENT for a, b in zip(found, wanted, strict=True))
