"""What each task of a network is to run with, as tuning leaves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tilewright.errors import SpaceError
from tilewright.network.kernels_check import KernelCheck, check_kernels
from tilewright.network.tasks import Extraction
from tilewright.space.registry import make_space
from tilewright.tuning.scheduler import NetworkTuner

__all__ = ["Choice", "checked", "chosen"]


@dataclass(frozen=True)
class Choice:
    """What each task is to run with.

    Attributes:
        functions: scheduled functions by ``Task.key``; a task without one is built as TVM builds it, unscheduled.
        configs: the config of each, by ``Task.key``; None: the default.
        defaults: names of the tasks that have only their default.
    """

    functions: dict[str, Any] = field(default_factory=dict)
    configs: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    defaults: list[str] = field(default_factory=list)


def chosen(extraction: Extraction, tuner: NetworkTuner) -> Choice:
    """The best that the tuner knows of each task now: at first what the records hold, or the defaults."""
    found = Choice()
    for use in extraction.uses:
        key, known = use.task.key, tuner.tuners.get(use.task.key)
        try:
            space = known.space if known is not None else make_space(use.task, extraction.target)
            config = known.best_config if known is not None else None
            if config is None:
                found.defaults.append(use.task.name)
            found.configs[key] = None if config is None else tuple(int(index) for index in config)
            found.functions[key] = space.schedule(space.default() if config is None else config).mod["main"]
        except SpaceError:
            found.defaults.append(use.task.name)
    return found


def checked(extraction: Extraction, choice: Choice, seconds: float) -> tuple[Choice, KernelCheck]:
    """The choice without winners that compute something else than their defaults on some kind of data.

    Args:
        extraction: the network.
        choice: of each task.
        seconds: that checking may take, about; what there is no time for is taken as it is.
    """
    spaces = {use.task.key: use.task for use in extraction.uses if choice.configs.get(use.task.key) is not None}
    defaults: dict[str, Any] = {}
    for key, task in spaces.items():
        space = make_space(task, extraction.target)
        defaults[key] = space.schedule(space.default()).mod["main"]
    found = check_kernels(extraction, choice.functions, defaults, seconds)
    functions = choice.functions | {key: defaults[key] for key in found.wrong}
    configs = choice.configs | dict.fromkeys(found.wrong)
    names = [task.name for key, task in spaces.items() if key in found.wrong]
    return Choice(functions, configs, choice.defaults + names), found
