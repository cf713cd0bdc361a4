"""Nodes whose measuring is replaced by the delays of recorded tables: real processes, real messages, no work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ray

from bench import replay
from tilewright.fleet.canary import CanaryAnswer, known_product
from tilewright.fleet.desk import Desk, Libraries, NodePool
from tilewright.fleet.ray_crew import RayCrew, _Node
from tilewright.fleet.wire import Announcement, Versions
from tilewright.measure.batch import PoolStatistics
from tilewright.measure.limits import Limits
from tilewright.measure.outcome import Measurement
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target

if TYPE_CHECKING:
    from ray.actor import ActorHandle

__all__ = ["TARGET", "SimulatedCrew", "tables"]

TABLES = Path(__file__).parent / "tables"
#: The machine of the tables, with one core.
TARGET = Target("znver3", 1, "simulated", ("avx2",), 8, 16, 1 << 15, 1 << 19, 1 << 23, "0.27")


@cache
def tables() -> dict[str, replay.Table]:
    """The recorded tables, by the keys of their tasks."""
    found = [replay.read(path) for path in sorted(TABLES.glob("*.parquet"))]
    return {table.task.key: table for table in found}


@dataclass
class SleepingPool:
    """Takes as long for a candidate as its recorded measurement took, and gives that measurement."""

    target: Target
    statistics: PoolStatistics = field(default_factory=PoolStatistics)
    on_measurement: Callable[[Measurement], None] | None = None

    def measure(
        self,
        space: DesignSpace,
        configs: Configs,
        best: float,
        deadline: float,
        libraries: Libraries | None = None,
    ) -> list[Measurement]:
        """Sleep and look up."""
        table, measured = tables()[space.task.key], []
        for row in table.find(np.asarray(configs)).tolist():
            seconds = float(table.elapsed[row]) * table.overlap
            if time.monotonic() + seconds >= deadline:
                break
            time.sleep(seconds)
            found = table.measurement(row, int(table.fastest[row]))
            measured.append(replace(found, target=self.target.key, time=time.time()))
            self.statistics.measured += 1
            if self.on_measurement is not None:
                self.on_measurement(measured[-1])
        return measured

    def race(self, space: DesignSpace, configs: Configs, deadline: float) -> list[Measurement]:
        """As :meth:`measure`."""
        return self.measure(space, configs, math.inf, deadline)

    def close(self) -> None:
        """Nothing was started."""


def _make_pool(target: Target) -> NodePool:
    return SleepingPool(target)


class SimulatedDesk(Desk):
    """A desk on a machine that need not be examined."""

    def __init__(self, name: str) -> None:
        super().__init__(1, name, _make_pool)
        self._simulated = name
        tables()

    def hello(self) -> Announcement:
        """A machine without limits."""
        limits = Limits(fma=1e18, innermost_bandwidth=1e18, cache_bandwidth=1e18)
        product = known_product().astype(np.float32)
        return Announcement(self._simulated, TARGET, limits, CanaryAnswer(product, 1.0), Versions.here())


class SimulatedCrew(RayCrew):
    """Many simulated nodes, as actors on the nodes of a small cluster."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def _look(self) -> None:
        for number in range(len(self._nodes), self._count):
            name = f"simulated{number}"
            actor: ActorHandle[SimulatedDesk] = (
                ray.remote(SimulatedDesk).options(num_cpus=0, max_concurrency=8).remote(name)
            )
            self._nodes[name] = _Node(name, 1, actor)
            self._refs[actor.hello.remote()] = ("hello", name)
