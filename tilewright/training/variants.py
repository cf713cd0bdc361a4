"""Variants of the kernels of a part: proposes them for a contest, checks their results, and chooses the fastest."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilewright.errors import SpaceError
from tilewright.executable.memory import allocate_aligned
from tilewright.executable.program import PlanProgram
from tilewright.measure.compare import relative_error
from tilewright.measure.outcome import Measurement, Outcome, robust_seconds
from tilewright.ops.registry import make_space
from tilewright.space.guard import guard_space
from tilewright.space.likely import find_likely
from tilewright.tensor import Array
from tilewright.tuning.in_place import Variant
from tilewright.tuning.tuner import TaskTuner

if TYPE_CHECKING:
    from tilewright.executable.executable import Executable
    from tilewright.graph.tasks import Extraction, TaskUse
    from tilewright.methods.method import Method
    from tilewright.records.store import Store
    from tilewright.space.space import Configs, DesignSpace
    from tilewright.tuning.selection import Selection

__all__ = ["Entered", "Proposer", "add_slow", "choose_variants", "keep_right"]

#: Kernels that take this share of a part's time at least take part in contests, those of so many tasks in each. With 24
#: tasks, the first contest of MobileNetV3-large came after 45 s of slots. (Choices.)
_LEAST_SHARE, _MOST_TASKS = 0.002, 6
#: New variants of a task in a contest. (A choice: each makes a contest three steps longer.)
_NEW = 3
#: A variant wins if it saves this share of the time of the kernel that it stands for. Less is noise.
_NOTEWORTHY = 0.02
#: Runs without which a variant is not judged.
_LEAST_RUNS = 2
#: The largest difference between results, relative to the largest number.
_TOLERANCE = 1e-4
#: A variant is left out if it takes more than this multiple of its kernel's time in this process. (A choice: the
#: process has cold caches, and may be stopped while a kernel runs, but a good variant is faster than its kernel there,
#: too.)
_FAR_SLOWER = 2.0
#: A part is run so often to find the variants that are wrong; those that are not found right by then are left out.
_MOST_CHECKS = 12


@dataclass(frozen=True)
class Entered:
    """A task that takes part in a contest.

    Attributes:
        variants: what it runs with now, then other schedules.
        names: by the name of a kernel in the library, the names of its variants, in the same order.
    """

    variants: tuple[Variant, ...]
    names: Mapping[str, tuple[str, ...]]


class Proposer:
    """Proposes schedules of tasks, as the tuner of a task does.

    Args:
        method: how to search.
        store: earlier measurements.
    """

    def __init__(self, method: Method, store: Store) -> None:
        self._method, self._store = method, store
        self._spaces: dict[str, DesignSpace] = {}
        self._turns: Counter[str] = Counter()
        self._rng = np.random.default_rng(0)

    def find_space(self, use: TaskUse, extraction: Extraction) -> DesignSpace:
        """The design space of a task. Raises ``SpaceError`` if it has none."""
        key = use.task.key
        if key not in self._spaces:
            self._spaces[key] = make_space(use.task, extraction.target)
        return self._spaces[key]

    def propose(self, use: TaskUse, extraction: Extraction, selection: Selection) -> list[Variant]:
        """The present schedule of a task, and a few others; empty: it has no design space, or nothing is new."""
        variants = [Variant(selection.configs.get(use.task.key), selection.functions[use.task.key])]
        try:
            space = self.find_space(use, extraction)
            with guard_space(f"the design space of {use.task.name!r}"):
                default = tuple(int(index) for index in space.default())
                for row in self._choose(space, extraction):
                    config = tuple(int(index) for index in row)
                    if config != (variants[0].config or default) and len(variants) <= _NEW:
                        variants.append(Variant(config, space.schedule(row).mod["main"]))
        except SpaceError:
            return []
        return variants if len(variants) > 1 else []

    def _choose(self, space: DesignSpace, extraction: Extraction) -> Configs:
        """Configs to try. What the space takes for good comes first, then what the method proposes.

        A cost model that knows few programs of a space proposes some that are far slower.
        """
        key, target = space.task.key, extraction.target
        if not self._store.best(key, target.key, space.template, 1):
            likely = find_likely(space, _NEW + 1)
            if len(likely) > 1:
                return likely
        asked = _Asked()
        tuner = TaskTuner(space, target, asked, self._store, self._rng, self._method)
        tuner.round(_NEW + 1, time.monotonic())
        return asked.configs

    def find(
        self, extraction: Extraction, selection: Selection, symbols: Mapping[str, str], times: Mapping[str, float]
    ) -> dict[str, list[Variant]]:
        """The variants of those tasks that take most of a part's time, by ``Task.key``; lighter ones have turns later.

        Args:
            extraction: of the part.
            selection: what it runs with.
            symbols: the names of its kernels in the library.
            times: the seconds that these take in a run.
        """
        taken = {
            use.task.key: sum(times.get(symbols.get(name, ""), 0.0) for name in use.functions)
            for use in extraction.uses
            if use.task.key in selection.functions
        }
        # A task that had a turn is likely to gain less by another one.
        order = sorted(taken, key=lambda key: -taken[key] / (1 + self._turns[key]))
        uses = {use.task.key: use for use in extraction.uses}
        found = dict[str, "list[Variant]"]()
        for key in order:
            if len(found) >= _MOST_TASKS:
                break
            if taken[key] < _LEAST_SHARE * sum(taken.values()):
                continue
            self._turns[key] += 1
            if variants := self.propose(uses[key], extraction, selection):
                found[key] = variants
        return found


class _Asked:
    """A runner that measures nothing, and only notes what it was asked to measure."""

    def __init__(self) -> None:
        self.configs: Configs = np.empty((0, 0), dtype=np.int32)

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        """No measurement."""
        self.configs = configs
        return []


def keep_right(
    executable: Executable, arrays: Sequence[Array], entered: Mapping[str, Entered]
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Run all variants, and leave out those that are wrong or far slower: they would make a step of the training long.

    Args:
        executable: holds all variants, and computes on the memory of its caller.
        arrays: its inputs.
        entered: the tasks.

    Returns:
        by the name of a kernel, the names of those variants that are left, itself first; and by the name of each
        variant that computes what its kernel computes, how many times as long it took.
    """
    names = {kernel: variants for entry in entered.values() for kernel, variants in entry.names.items()}
    found = {kernel: [variants[0]] for kernel, variants in names.items()}
    trial = _Trial(executable, arrays, list(names))
    usual = trial.time({})
    wanted = [result.copy() for result in trial.results]
    ratios: dict[str, float] = {}
    right: set[str] = set()
    waiting = [
        {kernel: variants[place] for kernel, variants in names.items() if place < len(variants)}
        for place in range(1, max(map(len, names.values()), default=0))
    ]
    for _ in range(_MOST_CHECKS):
        if not waiting:
            break
        layer = waiting.pop(0)
        taken = trial.time(layer, usual)
        for kernel, name in layer.items():
            ratios[name] = min(ratios.get(name, math.inf), taken[kernel] / usual[kernel])
        pairs = zip(trial.results, wanted, strict=True)
        if all(relative_error(result, right) <= _TOLERANCE for result, right in pairs):
            right |= set(layer.values())
            for kernel, name in layer.items():
                if ratios[name] <= _FAR_SLOWER:
                    found[kernel].append(name)
        elif len(layer) > 1:
            items, half = list(layer.items()), len(layer) // 2
            waiting += [dict(items[:half]), dict(items[half:])]
    left = {kernel: variants for kernel, variants in found.items() if len(variants) > 1}
    return left, {name: ratio for name, ratio in ratios.items() if name in right}


class _Trial:
    """Runs a part with variants of its kernels.

    Args:
        executable: of the part. It computes on the memory of its caller.
        arrays: its inputs.
        kernels: that have variants.

    Attributes:
        results: of the last run.
    """

    def __init__(self, executable: Executable, arrays: Sequence[Array], kernels: Sequence[str]) -> None:
        program = executable.program
        assert isinstance(program, PlanProgram)
        self._program = program
        self._inputs = [_align(array) for array in arrays]
        self.results = [_align(np.zeros(spec.shape, spec.dtype)) for spec in executable.outputs]
        self._places = {kernel: [i for i, name in enumerate(program.kernels) if name == kernel] for kernel in kernels}

    def time(self, layer: Mapping[str, str], usual: Mapping[str, float] | None = None) -> dict[str, float]:
        """The seconds that kernels take, all calls of each together.

        This process may be stopped while a kernel runs. So if one takes long, all run once more.

        Args:
            layer: variants that run in the place of kernels.
            usual: what kernels take otherwise; None: all run twice.
        """
        self._program.choose_kernels({kernel: kernel for kernel in self._places} | dict(layer))
        taken = self._run()
        if usual is None or any(taken[kernel] > _FAR_SLOWER * seconds for kernel, seconds in usual.items()):
            taken = {kernel: min(seconds, taken[kernel]) for kernel, seconds in self._run().items()}
        return taken

    def _run(self) -> dict[str, float]:
        for array in self.results:  # a kernel that leaves out a part of its result would be right by the run before
            array.view(np.uint8).fill(0xFF)
        addresses = [array.ctypes.data for array in (*self._inputs, *self.results)]
        taken = self._program.profile_in_place(addresses)
        return {kernel: sum(taken[place] for place in places) for kernel, places in self._places.items()}


def _align(array: Array) -> Array:
    """A copy of an array that begins on a cache line."""
    aligned: Array = allocate_aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    aligned[...] = array
    return aligned


def add_slow(
    times: Mapping[str, Mapping[str, Sequence[float]]], entered: Mapping[str, Entered], ratios: Mapping[str, float]
) -> dict[str, dict[str, Sequence[float]]]:
    """The times of a contest, and a single one for each variant that was left out because it is slow.

    Args:
        times: by the names of kernels and their variants, the seconds of each run.
        entered: the tasks.
        ratios: by the name of a variant, how many times as long as its kernel it takes.
    """
    found = {kernel: dict(runs) for kernel, runs in times.items()}
    for entry in entered.values():
        for kernel, names in entry.names.items():
            own = min(found.get(kernel, {}).get(names[0], ()), default=math.nan)
            for name in names[1:] if own > 0 else ():
                if name in ratios and not found[kernel].get(name):
                    found[kernel][name] = (ratios[name] * own,)
    return found


def choose_variants(
    extraction: Extraction,
    entered: Mapping[str, Entered],
    times: Mapping[str, Mapping[str, Sequence[float]]],
    spaces: Proposer,
) -> tuple[dict[str, Variant], list[Measurement]]:
    """The variants that beat a task's present schedule, by ``Task.key``, and the measurements of all variants.

    Args:
        extraction: of the part.
        entered: the tasks.
        times: by the names of kernels and their variants, the seconds of each run: the sums over all calls.
        spaces: knows the design spaces.
    """
    plan = extraction.plan
    assert plan is not None
    winners: dict[str, Variant] = {}
    measured: list[Measurement] = []
    uses = {use.task.key: use for use in extraction.uses}
    for key, entry in entered.items():
        space = spaces.find_space(uses[key], extraction)
        latencies = []
        for place, variant in enumerate(entry.variants):
            runs = [times.get(kernel, {}).get(names[place], ()) for kernel, names in entry.names.items()]
            repeats = tuple(sum(taken) / uses[key].weight for taken in zip(*runs, strict=False))
            latencies.append(robust_seconds(repeats) if len(repeats) >= _LEAST_RUNS else float("inf"))
            if repeats:
                config = variant.config or tuple(int(index) for index in space.default())
                target, now = extraction.target.key, time.time()
                measured.append(Measurement(key, target, space.template, config, Outcome.OK, repeats, "", now))
        best = int(np.argmin(latencies))
        if latencies[best] < (1.0 - _NOTEWORTHY) * latencies[0]:
            winners[key] = entry.variants[best]
    return winners, measured
