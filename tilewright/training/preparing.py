"""Compiles and tunes parts, in a process of its own, so that neither happens in the process that trains."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.errors import TilewrightError
from tilewright.frontend.torch.part import Layout
from tilewright.training.cache import ENTRY, find_folder, remove_oldest
from tilewright.training.notes import Notes
from tilewright.training.options import Options
from tilewright.training.orders import KernelTask, Prepared, Proposal, Request

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tilewright.compiling.kernels import Kernels
    from tilewright.frontend.network import Network
    from tilewright.graph.tasks import Extraction
    from tilewright.tensor import Array
    from tilewright.training.proving import Claim, Verdict
    from tilewright.training.variants import Entered, Proposer
    from tilewright.tuning.selection import Selection

__all__ = ["Preparation", "make_preparation"]

#: Random numbers that are drawn for the inputs of a part. (A prime: no extent divides it.)
_DRAWN = 100_003
#: How much less urgent the process is than others that run in a slot, such as those that load data. (A choice: it gets
#: a tenth of a processor beside another process. At idle priority it would get nothing.)
_NICE = 10
#: Objects after which Python looks for cycles: the new ones, and multiples of that for older ones.
_COLLECTIONS = (50_000, 20, 100)
#: Seconds of a budget that are kept for building the executable and trying it.
_FINISHING = 10.0


@dataclass
class _Part:
    """A part that is known.

    Attributes:
        network: the part as a network.
        extraction: its tasks.
        kernels: those that were compiled.
        selection: what its tasks run with.
        begun: the files of its kernels that are compiled in the background, and those of parts before it.
        out: the directory of its executable; None: it comes from the cache.
        version: the number of the next one.
        entered: the tasks whose variants are being timed, by ``Task.key``.
        ratios: by the name of a variant, how many times as long as its kernel it took here.
    """

    network: Network
    extraction: Extraction
    kernels: Kernels
    selection: Selection
    begun: tuple[Future[Path], ...] = ()
    out: Path | None = None
    version: int = 0
    entered: dict[str, Entered] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)

    @property
    def tasks(self) -> dict[str, KernelTask]:
        """What the kernels of its library compute, by their names there."""
        symbols = self.kernels.symbols(self.selection.functions)
        return {
            symbols.get(name, name): KernelTask(use.task.name, use.task.flop)
            for use in self.extraction.uses
            for name in use.functions
        }


class Preparation:
    """Prepares parts and tunes their kernels, in a process of its own.

    Args:
        options: of the backend.
        folder: for object files and executables, which another process removes in the end.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        # The process that trains imports this module, too, but needs none of these.
        from tilewright.compiling.objects import SharedObjects
        from tilewright.records.fallback import FallbackStore, open_for_tuning
        from tilewright.records.memory import MemoryStore
        from tilewright.target import Target

        self._options, self._folder, self._target = options, folder, Target.parse()
        records = options.records
        self._store = FallbackStore(MemoryStore())
        self._notes = Notes()
        if records is not None:
            try:
                self._store = open_for_tuning(records, self._notes.add)
            except (TilewrightError, OSError) as error:  # a store that is lost costs what it would have kept
                self._notes.add(f"measurements are not kept, and none are known: {error}")
        self._cache = find_folder(options)
        kept = None if self._cache is None else self._cache.with_suffix(".objects")
        self._objects = SharedObjects(folder / "objects", self._target, kept)
        self._parts: dict[str, _Part] = {}
        self._announced: dict[str, Request] = {}
        self._known: Proposer | None = None

    def warm_up(self) -> None:
        """Take a product of matrices through all stages, so that what they need is loaded before a part comes."""
        import torch
        from torch.fx.experimental.proxy_tensor import make_fx

        with contextlib.suppress(Exception):  # what is wrong is said of a part, when there is one
            a = torch.zeros(8, 8)
            module = make_fx(lambda x, w: (torch.relu(x @ w),))(a, a)
            self.learn(Request("warm", pickle.dumps(module), (Layout.of(a), Layout.of(a)), (Layout.of(a),)))
            part = self._parts[""]
            part.kernels.library(part.selection.functions, self._folder / "warm.so")
        self._parts.clear()

    def announce(self, requests: Sequence[Request]) -> None:
        """Name all parts that will come, in their order. One processor imports them while another compiles."""
        self._announced = {request.key: request for request in requests if request.key not in self._parts}

    def learn(self, request: Request, begin: bool = False) -> None:
        """Import a part and find its tasks, so that variants of them can be proposed. Raises as the stages do.

        Args:
            request: the part.
            begin: whether to begin to compile its kernels, and not to wait for them.
        """
        from tilewright.compiling.kernels import Kernels
        from tilewright.frontend.load import load_part
        from tilewright.graph.tasks import extract
        from tilewright.tuning.algorithms import assume_algorithms
        from tilewright.tuning.selection import select_recorded

        network = load_part(request.name, pickle.loads(request.module), request.inputs, request.outputs)
        extraction = extract(network, self._target, assume=assume_algorithms)
        kernels = Kernels(extraction, self._folder, self._objects)
        selection = select_recorded(extraction, self._store, begin=kernels.begin_some if begin else None)
        self._parts[request.key] = _Part(network, extraction, kernels, selection)
        if begin:
            kernels.begin(selection.functions)
            self._parts[request.key].begun = self._objects.begun

    def prepare(self, request: Request) -> Prepared:
        """Import, tune and build a part, and run its executable once.

        Raises:
            TilewrightError: as the stages raise it.
        """
        part = self._begin(request)
        spent, trials = 0.0, 0
        if self._options.mode == "now":
            spent = self._options.seconds
            if request.seconds > _FINISHING:
                part.selection, trials = self._tune(part.extraction, request.seconds)
        while self._announced and not all(file.done() for file in part.begun):
            with contextlib.suppress(Exception):  # it is raised again when that part's turn comes
                self._begin(next(iter(self._announced.values())))
        self._build(request.key, part, spent)
        assert part.out is not None
        tasks, tuned = len(part.extraction.uses), len(part.selection.tuned)
        return Prepared(request.key, part.out, tasks, tuned, trials, False, self._notes.take(), part.tasks)

    def begin(self, request: Request) -> None:
        """Learn a part, and begin to compile its kernels. Raises as :meth:`learn` does."""
        self._begin(request)

    def _begin(self, request: Request) -> _Part:
        self._announced.pop(request.key, None)
        if request.key not in self._parts:
            self.learn(request, self._options.mode != "now")
        return self._parts[request.key]

    def propose(self, times: Mapping[str, Mapping[str, float]]) -> list[Proposal]:
        """Compile variants of the kernels that take most of the time. They were run, and their results compared.

        Args:
            times: by the key of a part, the seconds that its kernels take in a step.
        """
        found = []
        for key, part in self._parts.items():
            if times.get(key):
                with contextlib.suppress(TilewrightError):  # this part keeps the kernels that it has
                    proposal = self._propose(key, part, times[key])
                    found += [] if proposal is None else [proposal]
        return found

    def conclude(self, key: str, times: Mapping[str, Mapping[str, Sequence[float]]], spent: float) -> Prepared | None:
        """Keep what variants took in their places, and build the part with the fastest. None: nothing has changed.

        Args:
            key: of the part.
            times: by the names of kernels and their variants, the seconds of each run.
            spent: seconds of the budget that were spent so far, for the cache.

        Raises:
            TilewrightError: the part cannot be built.
        """
        from tilewright.training.variants import add_slow, choose_variants
        from tilewright.tuning.selection import Selection

        part = self._parts[key]
        entered, part.entered = part.entered, {}
        times = add_slow(times, entered, part.ratios)
        chosen, measured = choose_variants(part.extraction, entered, times, self._proposer)
        self._store.add(measured)
        self._store.settle()
        if not chosen:
            return None
        former = part.selection
        part.selection = Selection(
            former.functions | {key: variant.function for key, variant in chosen.items()},
            former.configs | {key: variant.config for key, variant in chosen.items()},
        )
        self._build(key, part, spent)
        assert part.out is not None
        tasks, tuned = len(part.extraction.uses), len(part.selection.tuned)
        return Prepared(key, part.out, tasks, tuned, len(measured), True, self._notes.take(), part.tasks)

    def prove(self, claim: Claim) -> Verdict:
        """Whether an executable of a part computes the same as PyTorch (:func:`tilewright.training.proving.prove`)."""
        from tilewright.training.proving import prove

        return prove(claim)

    def finish(self, spent: float) -> None:
        """Note in the cache what was spent."""
        for key, part in self._parts.items():
            self._keep(key, part, spent)

    @property
    def _proposer(self) -> Proposer:
        from tilewright.methods.default import known_beforehand
        from tilewright.methods.registry import make_method
        from tilewright.training.variants import Proposer

        if self._known is None:
            self._known = Proposer(make_method(self._options.method, known_beforehand()[0]), self._store)
        return self._known

    def _propose(self, key: str, part: _Part, times: Mapping[str, float]) -> Proposal | None:
        from tilewright.compiling.build import replace_kernels
        from tilewright.executable.executable import load_executable
        from tilewright.training.variants import Entered, keep_right

        if part.out is None:  # its executable comes from the cache
            self._build(key, part, None)
        assert part.out is not None
        functions, kernels = part.selection.functions, part.kernels
        symbols = kernels.symbols(functions)
        found = self._proposer.find(part.extraction, part.selection, symbols, times)
        if not found:
            return None
        layers = [
            {task: variants[place].function for task, variants in found.items() if place < len(variants)}
            for place in range(max(map(len, found.values())))
        ]
        for use in part.extraction.uses:
            self._store.describe(use.task)
        out = self._folder / f"variants-{key}"
        replace_kernels(part.out, kernels.library(functions, out.with_suffix(".so"), layers), out)
        names = [kernels.symbols(layer) for layer in layers]
        part.entered = {
            use.task.key: Entered(
                tuple(found[use.task.key]),
                {
                    symbols[kernel]: tuple(layer[kernel] for layer in names if kernel in layer)
                    for kernel in use.functions
                    if kernel in symbols
                },
            )
            for use in part.extraction.uses
            if use.task.key in found
        }
        right, part.ratios = keep_right(load_executable(out), _make_inputs(part.network), part.entered)
        return Proposal(key, out, right, part.ratios) if right else None

    def _tune(self, extraction: Extraction, seconds: float) -> tuple[Selection, int]:
        """The best schedule of each task, and how many candidates were measured for it."""
        import numpy as np

        from tilewright.measure.pool import LocalPool
        from tilewright.methods.default import known_beforehand
        from tilewright.methods.registry import make_method
        from tilewright.tuning.budget import Budget
        from tilewright.tuning.context import TuningContext
        from tilewright.tuning.scheduler import NetworkTuner
        from tilewright.tuning.selection import select_best

        store, target = self._store, self._target
        method = make_method(self._options.method, known_beforehand()[0])
        with LocalPool(target, on_measurement=lambda measurement: store.add([measurement])) as pool:
            for use in extraction.uses:
                store.describe(use.task)
            context = TuningContext(target, pool, store, Budget(seconds).start(), np.random.default_rng(0))
            tuner = NetworkTuner(extraction.uses, context, method=method)
            tuner.run(reserve=_FINISHING)
            store.settle()
            return select_best(extraction, tuner), tuner.trials

    def _build(self, key: str, part: _Part, spent: float | None) -> None:
        """Build a part, and run it once: a crash costs this process, and no training.

        Args:
            key: of the part.
            part: what is built.
            spent: seconds of the budget that were spent so far, for the cache; None: the cache has this executable.
        """
        from tilewright.compiling.build import build

        while (out := self._folder / f"{key}-{part.version}").exists():  # a process before this one has built it
            part.version += 1
        former = part.out
        executable = build(part.extraction, part.selection.functions, out, {}, part.kernels)
        executable(*_make_inputs(part.network))
        part.out, part.version = out, part.version + 1
        if former is not None:
            shutil.rmtree(former, ignore_errors=True)
        if spent is not None:
            self._keep(key, part, spent)

    def _keep(self, key: str, part: _Part, spent: float) -> None:
        """Put the executable of a part into the cache. If that fails, a note says so: the next run starts slower."""
        from tilewright.compiling.build import publish

        if self._cache is None or part.out is None:
            return
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            publish(part.out, self._cache / key, {ENTRY: {"spent": round(spent, 1), "kernels": part.tasks}})
            remove_oldest(self._cache)
        except (TilewrightError, OSError) as error:
            self._notes.add(f"not all executables are kept for the next run: {error}", "executables")


def make_preparation(options: Options, folder: Path) -> Preparation:
    """A :class:`Preparation`, and this process made ready for it: all that it will need is imported now."""
    import gc

    from tilewright.training.light_torch import leave_out_dynamo
    from tilewright.tvm_compat import (
        light_errors,
        light_import,
        light_tensor_intrinsics,
        set_threads,
        unchecked_schedules,
    )

    set_threads()
    light_errors()
    with light_import():
        import tilewright.compiling.build
        import tilewright.frontend.load
        import tilewright.ops.registry
        import tilewright.tuning.selection  # noqa: F401

    if options.mode == "background":
        os.nice(_NICE)
    light_tensor_intrinsics()
    unchecked_schedules()
    leave_out_dynamo()
    made = Preparation(options, folder)
    made.warm_up()
    # Graphs and programs are many objects with few cycles: looking for these took 7 % of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)
    return made


def _make_inputs(network: Network) -> list[Array]:
    """Inputs of a part: the same random numbers over and over, since drawing new ones takes longer than a step."""
    import numpy as np

    from tilewright.tensor import random_arrays

    rng = np.random.default_rng(0)
    normal = rng.standard_normal(_DRAWN, dtype=np.float32)
    found: list[Array] = []
    for spec in network.inputs:
        if spec.dtype == "float32":
            begin = int(rng.integers(_DRAWN))
            found.append(np.resize(np.roll(normal, begin), spec.shape))
        else:
            found += random_arrays([spec], 0)
    return found
