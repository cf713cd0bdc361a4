"""Which program each task of a network gets: the selection that an executable is built from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import SpaceError
from tilewright.graph.buckets import Extracted
from tilewright.ops.registry import make_space
from tilewright.records.store import Store
from tilewright.space.guard import guard_space
from tilewright.space.space import DesignSpace
from tilewright.verify.kernels_check import KernelCheck, check_kernels

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

    from tilewright.tuning.scheduler import NetworkTuner

__all__ = ["Selection", "check_selection", "select_best", "select_recorded"]

#: How many scheduled functions are compiled together, while others are scheduled. (A choice: fewer functions would make
#: more object files.)
_ENOUGH = 64


@dataclass(frozen=True)
class Selection:
    """What each task is to run with.

    Attributes:
        functions: scheduled functions by ``Task.key``. TVM builds a task without a function, without a schedule.
        configs: the config of each task, by ``Task.key``. A task without one, or with None, runs its default.
    """

    functions: dict[str, PrimFunc] = field(default_factory=dict)
    configs: dict[str, tuple[int, ...] | None] = field(default_factory=dict)

    @property
    def tuned(self) -> tuple[str, ...]:
        """The keys of tasks that run with something else than their default."""
        return tuple(key for key, config in self.configs.items() if config is not None)

    def mark_default(self, keys: Collection[str]) -> Selection:
        """The selection with some tasks, by their keys, marked as running their defaults. Functions stay."""
        return replace(self, configs=self.configs | dict.fromkeys(keys))


def select_recorded(
    extraction: Extracted, store: Store, begin: Callable[[Mapping[str, PrimFunc]], None] | None = None
) -> Selection:
    """The best schedule on record of each task, or its default: what the network runs with before it is tuned.

    Args:
        extraction: the network.
        store: earlier measurements.
        begin: is called with some functions, by ``Task.key``, whenever there are enough of them to compile.

    Raises:
        RecordsError: the store cannot be read.
    """
    found, begun = Selection(), 0
    for use in extraction.uses:
        if begin is not None and len(found.functions) - begun >= _ENOUGH:
            begin(dict(list(found.functions.items())[begun:]))
            begun = len(found.functions)
        key = use.task.key
        try:
            space = make_space(use.task, extraction.target)
            known = store.best(key, extraction.target.key, space.template, 1)
            config = np.asarray(known[0].config, dtype=np.int32) if known else None
            with guard_space(f"the design space of {use.task.name!r}"):
                if config is not None and (not _fits(space, config) or np.array_equal(config, space.default())):
                    config = None
            found.functions[key] = _schedule(space, config)
        except SpaceError:  # TVM builds the task without a schedule
            continue
        found.configs[key] = None if config is None else tuple(int(index) for index in config)
    return found


def _schedule(space: DesignSpace, config: NDArray[np.int32] | None) -> PrimFunc:
    """The function of a config, or of the default. Raises ``SpaceError`` if the space fails."""
    with guard_space(f"the design space of {space.task.name!r}"):
        return space.schedule(space.default() if config is None else config).mod["main"]


def _fits(space: DesignSpace, config: NDArray[np.int32]) -> bool:
    """Whether a config out of the records is one of the space."""
    if config.shape != (len(space.knobs),):
        return False
    return all(0 <= int(i) < len(knob) for i, knob in zip(config, space.knobs, strict=True)) and bool(
        space.valid(config[None])[0]
    )


def select_best(extraction: Extracted, tuner: NetworkTuner) -> Selection:
    """The best that the tuner knows of each task now: at first what the records hold, or the defaults."""
    found = Selection()
    for use in extraction.uses:
        key, known = use.task.key, tuner.tuners.get(use.task.key)
        try:
            space = known.space if known is not None else make_space(use.task, extraction.target)
            config = known.best_config if known is not None else None
            if config is not None and np.array_equal(config, space.default()):
                config = None
            found.functions[key] = _schedule(space, config)
        except SpaceError:  # TVM builds the task without a schedule
            continue
        found.configs[key] = None if config is None else tuple(int(index) for index in config)
    return found


def check_selection(extraction: Extracted, selection: Selection, seconds: float) -> tuple[Selection, KernelCheck]:
    """The selection without winners that compute something else than their defaults on some kind of data.

    Args:
        extraction: the network.
        selection: of each task.
        seconds: that checking may take, about; what there is no time for is taken as it is.
    """
    defaults: dict[str, PrimFunc] = {}
    incomparable: list[str] = []
    for use in extraction.uses:
        if use.task.key in selection.tuned:
            try:
                defaults[use.task.key] = _schedule(make_space(use.task, extraction.target), None)
            except SpaceError:
                incomparable.append(use.task.key)
    found = check_kernels(extraction, selection.functions, defaults, seconds)
    found = replace(found, unchecked=(*found.unchecked, *incomparable))
    functions = selection.functions | {key: defaults[key] for key in found.wrong}
    return Selection(functions, selection.configs).mark_default(found.wrong), found
