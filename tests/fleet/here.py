"""Nodes of a fleet in this process, without Ray: desks with toy pools."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from tests.toys import ToySpace, plain
from tests.tuning.replay import TARGET, task
from tilewright.errors import MeasureError
from tilewright.fleet.canary import CanaryAnswer, known_product
from tilewright.fleet.crew import Event, Joined, Lost, News
from tilewright.fleet.desk import Desk, Libraries
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.wire import Announcement, Versions, Work
from tilewright.measure.batch import PoolStatistics
from tilewright.measure.limits import Limits
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.protocol import Library
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target

__all__ = [
    "LIMITS",
    "HereCrew",
    "HereDepot",
    "ToyBuilder",
    "ToyPool",
    "announce",
    "configs",
    "space_named",
    "toy_fleet",
]

#: Of the toy machine: a task of 1e6 operations takes at least 10 us.
LIMITS = Limits(fma=1e11, innermost_bandwidth=1e11, cache_bandwidth=1e11)


def space_named(key: str) -> ToySpace:
    return ToySpace(plain(10, 10, 10), task=task(key))


def configs(count: int, first: int = 0) -> Configs:
    return np.asarray([[n // 100, n // 10 % 10, n % 10] for n in range(first, first + count)], dtype=np.int32)


@dataclass
class ToyPool:
    """Every config takes 1 ms, or fails where its last index is 9.

    ``gate``: candidates wait for it, but for the first few, which are free. ``factor``: of the times that it tells.
    ``wrong``: whether all outputs are.
    """

    target: Target
    free: int = 1 << 30
    gate: threading.Event = field(default_factory=threading.Event)
    factor: float = 1.0
    broken: str = ""
    wrong: bool = False
    statistics: PoolStatistics = field(default_factory=PoolStatistics)
    on_measurement: Callable[[Measurement], None] | None = None
    asked: list[tuple[int, ...]] = field(default_factory=list)
    loaded: int = 0

    def measure(
        self,
        space: DesignSpace,
        configs: Configs,
        best: float,
        deadline: float,
        libraries: Libraries | None = None,
    ) -> list[Measurement]:
        if self.broken:
            raise MeasureError(self.broken)
        done = []
        for row in configs.tolist():
            if time.monotonic() >= deadline:
                break
            if self.free <= 0:
                self.gate.wait(20.0)
            self.free -= 1
            failed = row[-1] == 9
            outcome, repeats = (Outcome.RUN_CRASHED, ()) if failed else (Outcome.OK, (1e-3 * self.factor,) * 3)
            if self.wrong:
                outcome, repeats = Outcome.WRONG_RESULT, ()
            m = Measurement(space.task.key, self.target.key, space.template, tuple(row), outcome, repeats, elapsed=0.01)
            self.asked.append(tuple(row))
            self.loaded += tuple(row) in (libraries or {})
            self.statistics.measured += 1
            if self.on_measurement is not None:
                self.on_measurement(m)
            done.append(replace(m, anchor=1e-3))
        return done

    def race(self, space: DesignSpace, configs: Configs, deadline: float) -> list[Measurement]:
        return self.measure(space, configs, math.inf, deadline)

    def close(self) -> None:
        self.gate.set()


@dataclass
class ToyBuilder:
    """Compiles every config to nothing, unless its last index is 8.

    ``gate``: works wait for it. ``broken``: why it cannot compile.
    """

    target: Target
    gate: threading.Event | None = None
    broken: str = ""

    def compile(self, space: DesignSpace, configs: Configs, deadline: float) -> Libraries:
        if self.gate is not None:
            self.gate.wait(20.0)
        if self.broken:
            raise MeasureError(self.broken)
        return {tuple(row): Library((), b"") for row in configs.tolist() if row[-1] != 8}

    def close(self) -> None:
        pass


class HereDepot:
    """Keeps libraries in this process, until they are lost."""

    def __init__(self) -> None:
        self.kept: dict[object, Libraries] = {}
        self.lost = False

    def put(self, libraries: Libraries) -> object:
        self.kept[len(self.kept)] = libraries
        return len(self.kept) - 1

    def get(self, place: object) -> Libraries:
        return {} if self.lost else self.kept[place]


def announce(name: str, target: Target = TARGET, canary: CanaryAnswer | None = None) -> Announcement:
    answer = CanaryAnswer(known_product().astype(np.float32), 1.0)
    return Announcement(name, target, LIMITS, canary or answer, Versions.here())


class HereCrew:
    """Desks of this process as the nodes of a fleet."""

    session = "here"
    expected = 0

    def __init__(self) -> None:
        self.desks: dict[str, Desk] = {}
        self.pools: dict[str, ToyPool] = {}
        self.builders: dict[str, ToyBuilder] = {}
        self.depot = HereDepot()
        self._after: dict[str, int] = {}
        self._events: list[Event] = []

    def join(self, node: str, target: Target = TARGET, announcement: Announcement | None = None, **toy: object) -> None:
        """A node comes, with a pool that has these attributes."""

        def make_pool(target: Target) -> ToyPool:
            self.pools[node] = ToyPool(target, **toy)  # type: ignore[arg-type]
            return self.pools[node]

        self.add(node, Desk(1, node, make_pool, depot=self.depot), announcement or announce(node, target))

    def join_builder(self, node: str, announcement: Announcement | None = None, **toy: object) -> None:
        """A builder comes, with these attributes."""

        def make_builder(target: Target, workers: int) -> ToyBuilder:
            self.builders[node] = ToyBuilder(target, **toy)  # type: ignore[arg-type]
            return self.builders[node]

        desk = Desk(1, node, make_builder=make_builder, depot=self.depot)
        self.add(node, desk, replace(announcement or announce(node), builder=True))

    def add(self, node: str, desk: Desk, announcement: Announcement) -> None:
        self.desks[node], self._after[node] = desk, 0
        self._events.append(Joined(node, announcement))

    def lose(self, node: str) -> None:
        """A node goes, whatever it is at. What it had to tell is lost, too."""
        self.dismiss(node)
        self._events.append(Lost(node, "its plug was pulled"))

    def send(self, node: str, work: Work) -> None:
        if node in self.desks:
            self.desks[node].work(work)

    def cancel(self, node: str, number: int) -> None:
        if node in self.desks:
            self.desks[node].cancel(self.session, number)

    def dismiss(self, node: str) -> None:
        if node in self.pools:
            self.pools[node].gate.set()
        if node in self.builders and (gate := self.builders[node].gate) is not None:
            gate.set()
        self.desks.pop(node).close()

    def wait(self, seconds: float) -> list[Event]:
        until = time.monotonic() + seconds
        while not self._events and time.monotonic() < until:
            for node, desk in self.desks.items():
                report = desk.collect(self.session, self._after[node], 0.0, 0.0)
                self._after[node] = report.last
                if report.entries:
                    self._events.append(News(node, report))
            if not self._events:
                time.sleep(0.002)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        for node in list(self.desks):
            self.dismiss(node)


@contextmanager
def toy_fleet(*nodes: str, told: list[str] | None = None) -> Iterator[tuple[Fleet, HereCrew]]:
    """A fleet of toy nodes."""
    crew = HereCrew()
    for node in nodes:
        crew.join(node)
    fleet = Fleet(crew, ([] if told is None else told).append)
    try:
        if nodes:
            fleet.gather()
        yield fleet, crew
    finally:
        crew.close()


def keys(measurements: Sequence[Measurement]) -> list[tuple[int, ...]]:
    return [m.config for m in measurements]
