"""Tasks whose best configs others may try: of the network that is tuned, or left in the store by earlier ones."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from tilewright.records.store import Query, Store
from tilewright.space.configs import cardinalities
from tilewright.space.knob import Knob
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.tuning.gain import Share

__all__ = ["Donor", "EarlierTask", "OwnTask"]

#: Only configs within this factor of the best are lent.
_NEARLY = 1.5
#: The best configs of an earlier task that are looked at.
_EARLIER_BEST = 16


class Donor(Protocol):
    """A task that lends.

    Attributes:
        name: of the task, for people.
        knobs: of its space.
        flop: floating-point operations of one call.
        seconds: its best latency; inf: none.
        measured: how many measurements of it are known.
    """

    name: str
    knobs: tuple[Knob, ...]
    flop: float

    @property
    def seconds(self) -> float: ...  # noqa: D102 - described by the class
    @property
    def measured(self) -> int: ...  # noqa: D102 - described by the class
    def best(self, count: int) -> Configs:
        """``(at most count, knobs)``, the fastest first."""
        ...


class OwnTask:
    """A task of the network that is being tuned: what it lends gets better.

    Args:
        share: the task, with a tuner.
    """

    def __init__(self, share: Share) -> None:
        assert share.tuner is not None
        self.share, self._tuner = share, share.tuner
        self.name, self.flop, self.knobs = share.use.task.name, share.use.task.flop, share.tuner.space.knobs

    @property
    def seconds(self) -> float:
        """Its best latency; inf: none."""
        return self._tuner.best_seconds

    @property
    def measured(self) -> int:
        """How many measurements of it are known, old ones too."""
        return self.share.measured

    def best(self, count: int) -> Configs:
        """``(at most count, knobs)``, the fastest first."""
        return self._tuner.finalists(count, _NEARLY)


class EarlierTask:
    """A task that an earlier network left in the store.

    Args:
        space: of the task.
        store: its records.
        target: measured on.

    Attributes:
        space: of the task.
        configs: ``(n, knobs)`` what was measured of it, valid and without failures, the fastest first.
        latencies: ``(n,)`` of them, in seconds.

    Raises:
        RecordsError: the store cannot be read.
    """

    def __init__(self, space: DesignSpace, store: Store, target: Target) -> None:
        self.space, self.name, self.flop, self.knobs = space, space.task.name, space.task.flop, space.knobs
        choices = cardinalities(space).tolist()
        seconds: dict[tuple[int, ...], float] = {}
        for m in store.scan(Query(space.task.key, target.key, space.template)):
            # Rows of a changed template, or damaged, are passed over.
            fits = len(m.config) == len(choices) and all(0 <= i < c for i, c in zip(m.config, choices, strict=True))
            if m.ok and m.seconds > 0 and fits:
                seconds[m.config] = min(m.seconds, seconds.get(m.config, math.inf))
        rows = np.asarray(sorted(seconds, key=seconds.__getitem__), dtype=np.int32).reshape(-1, len(choices))
        self.configs = rows[space.valid(rows)] if len(rows) else rows
        self.latencies = np.asarray([seconds[tuple(row)] for row in self.configs.tolist()], dtype=np.float64)
        self.measured = len(self.configs)
        self.seconds = float(self.latencies[0]) if self.measured else math.inf
        self._best = self.configs[:_EARLIER_BEST][self.latencies[:_EARLIER_BEST] <= _NEARLY * self.seconds]

    def best(self, count: int) -> Configs:
        """``(at most count, knobs)``, the fastest first."""
        return self._best[:count]
