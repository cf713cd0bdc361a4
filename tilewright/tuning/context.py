"""What a tuning works with, and how it deals out its rounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from tilewright.measure.limits import Limits
from tilewright.measure.outcome import Measurement
from tilewright.measure.pool import LocalPool
from tilewright.measure.runner import Pool, Runner
from tilewright.records.store import Store
from tilewright.target import Target
from tilewright.tuning.budget import RunningBudget
from tilewright.tuning.priorities import Rule, learning_gains
from tilewright.tuning.report import NodeReport
from tilewright.tuning.roofline import Roofline, measure_roofline
from tilewright.tuning.run_log import RunLog

__all__ = ["HasNodes", "PoolMaker", "Scheduling", "TuningContext", "Workplace"]

#: Makes what measures for a target. It calls the function with each measurement as it is made.
PoolMaker: TypeAlias = Callable[[Target, Callable[[Measurement], None]], Pool]


def _make_local_pool(target: Target, on_measurement: Callable[[Measurement], None]) -> Pool:
    return LocalPool(target, on_measurement=on_measurement)


@dataclass(frozen=True)
class Workplace:
    """What is tuned for, and who measures: by default the workers of this machine.

    Attributes:
        target: what is tuned for. Its code must run on this machine, which builds and judges the executable.
        make_pool: makes what measures.
        limits: what the machines that measure reach; None: this machine measures, and finds its own limits.
    """

    target: Target
    make_pool: PoolMaker = _make_local_pool
    limits: Limits | None = None

    @classmethod
    def of(cls, target: str | Target | Workplace) -> Workplace:
        """The workplace for a target, or for its text."""
        if isinstance(target, Workplace):
            return target
        return cls(target if isinstance(target, Target) else Target.parse(target))

    def find_roofline(self) -> Roofline:
        """The roofline of the machines that measure. It is measured here if this machine does: nothing else should run.

        Raises:
            MeasureError: no process can be started.
        """
        if self.limits is not None:
            return Roofline.of(self.limits)
        return measure_roofline(self.target.cores, self.target.features)


@runtime_checkable
class HasNodes(Protocol):
    """A runner that has nodes, which the progress display and the report show."""

    @property
    def nodes(self) -> tuple[NodeReport, ...]:
        """All nodes that took part so far."""
        ...


@dataclass(frozen=True)
class TuningContext:
    """What a tuning works with.

    Measurements reach the store as :class:`tilewright.tuning.tuner.TaskTuner` describes: through the runner.

    Attributes:
        target: what is tuned for.
        runner: measures candidates.
        store: holds earlier measurements.
        budget: what may be spent. Trials are counted on it.
        rng: the only source of randomness.
        log: is told what happens.
    """

    target: Target
    runner: Runner
    store: Store
    budget: RunningBudget
    rng: np.random.Generator
    log: RunLog = field(default_factory=RunLog)


@dataclass(frozen=True)
class Scheduling:
    """How rounds are dealt out.

    Attributes:
        first_round: candidates of each task in the first pass.
        round_size: candidates of a later round, at most; see :meth:`TaskSnapshot.round_size
            <tilewright.tuning.task_state.TaskSnapshot.round_size>`.
        task_trials: the most trials of one task.
        rule: says which task promises most.
    """

    first_round: int = 4
    round_size: int = 16
    task_trials: float = math.inf
    rule: Rule = learning_gains
