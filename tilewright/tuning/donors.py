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

    Raises:
        RecordsError: the store cannot be read.
    """

    def __init__(self, space: DesignSpace, store: Store, target: Target) -> None:
        self.space, self.name, self.flop, self.knobs = space, space.task.name, space.task.flop, space.knobs
        query = Query(space.task.key, target.key, space.template)
        self.measured = sum(m.ok for m in store.scan(query))
        found = store.best(space.task.key, target.key, space.template, _EARLIER_BEST)
        choices = cardinalities(space).tolist()
        # Rows of a changed template, or damaged, are passed over.
        found = [m for m in found if len(m.config) == len(choices)]
        found = [m for m in found if all(0 <= i < c for i, c in zip(m.config, choices, strict=True))]
        rows = np.asarray([m.config for m in found], dtype=np.int32).reshape(len(found), len(choices))
        valid = space.valid(rows) if len(rows) else np.zeros(0, dtype=np.bool_)
        seconds = np.asarray([m.seconds for m in found], dtype=np.float64)[valid]
        self.seconds = float(seconds.min()) if len(seconds) else math.inf
        self._best = rows[valid][seconds <= _NEARLY * self.seconds]

    def best(self, count: int) -> Configs:
        """``(at most count, knobs)``, the fastest first."""
        return self._best[:count]
