"""From records to a data set: the measured configs of each task as programs again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np

from tilewright.cost.dataset import DataSet, TaskData
from tilewright.errors import SpaceError
from tilewright.measure.outcome import Outcome, robust_seconds
from tilewright.ops.registry import recorded_space
from tilewright.records.store import Query, Store
from tilewright.space.configs import cardinalities
from tilewright.target import Target
from tilewright.task import Task

__all__ = ["collect"]

#: The end of the year 9999: records may hold any number as their time.
_LAST_TIME = 253402300799.0


def collect(
    store: Store,
    tasks: Iterable[Task],
    target: Target,
    networks: Mapping[str, Iterable[str]] | None = None,
    command: str = "",
) -> DataSet:
    """What a store holds of ``tasks`` on one target, as programs.

    Tasks whose programs have no closed form, and those without two measurements, are left out; so are rows that are not
    of the task's space (of a changed template, or damaged). A config measured several times counts once, with all
    its repeats; one that ever gave a wrong result has failed.

    Args:
        store: the records.
        tasks: which.
        target: measured on.
        networks: of a task's key, the networks it is of.
        command: how the records were made, for people.

    Raises:
        RecordsError: the store cannot be read.
    """
    found, latest = [], 0.0
    for task in tasks:
        # Asked first, because a generated space takes a second to make.
        if next(iter(store.scan(Query(task.key, target.key))), None) is None:
            continue
        try:
            space = recorded_space(task, target)
        except SpaceError:
            continue
        if not space.has_loop_nest:
            continue
        repeats: dict[tuple[int, ...], list[float]] = {}
        wrong = set()
        choices = cardinalities(space).tolist()
        for m in store.scan(Query(task.key, target.key, space.template)):
            if len(m.config) == len(choices) and all(0 <= i < c for i, c in zip(m.config, choices, strict=True)):
                repeats.setdefault(m.config, []).extend(s for s in m.repeats if m.ok and s > 0)
                if m.outcome is Outcome.WRONG_RESULT:
                    wrong.add(m.config)
                latest = max(latest, m.time)
        if len(repeats) < 2:
            continue
        configs = np.asarray(list(repeats), dtype=np.int32).reshape(-1, len(choices))
        valid = space.valid(configs)
        if valid.sum() < 2:
            continue
        seconds = np.asarray(
            [math.nan if config in wrong else robust_seconds(tuple(times)) for config, times in repeats.items()]
        )
        found.append(
            TaskData(
                task=task.key,
                name=task.name,
                flop=task.flop,
                networks=tuple(sorted((networks or {}).get(task.key, ()))),
                target=target.key,
                template=space.template,
                configs=configs[valid],
                nest=space.loop_nest(configs[valid]),
                seconds=seconds[valid],
            )
        )
    about = {
        "target": asdict(target),
        "date": time.strftime("%Y-%m-%d", time.gmtime(min(latest, _LAST_TIME))),
        "command": command,
    }
    return DataSet(tuple(found), about)
