"""One suite for every runner. To have yours tested, add a case for it, and the checks for what it can do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from bench import replay
from bench._ray_cluster import missing
from tests.conformance.runner_cases import (
    AS_FALLIBLE,
    AS_PARALLEL,
    AS_POOL,
    AS_RACER,
    AS_RUNNER,
    Case,
    Check,
    check_on_ray,
)
from tests.fleet.here import HereCrew, announce
from tests.measure.spaces import Deed, FaultySpace, config, make_faulty, make_task
from tests.targets import host_target, require
from tests.toys import ToySpace, plain
from tests.tuning.replay import TARGET, Clock, Replay
from tilewright.fleet.desk import Desk, NodePool
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.runner import FleetRunner
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.pool import LocalPool
from tilewright.records.memory import MemoryStore
from tilewright.space.space import Configs
from tilewright.target import Target

#: Configs of the faulty space that work.
GOOD = np.asarray([config(Deed.FAST, which) for which in range(1, 7)], dtype=np.int32)


def local_pool(stack: ExitStack) -> Case:
    """The workers of this machine."""
    require(host_target())
    told: list[Measurement] = []
    pool = LocalPool(host_target(), workers=1, factory=make_faulty, on_measurement=told.append)
    stack.callback(pool.close)
    space = FaultySpace(make_task())
    return Case(pool, space, GOOD, host_target().key, config(Deed.CRASH_IN_RUN), told)


def fleet(stack: ExitStack) -> Case:
    """A fleet of one node, whose desk has such workers. Ray's part is taken by a crew of this process."""
    require(host_target())

    def make_pool(target: Target) -> NodePool:
        return LocalPool(target, workers=1, factory=make_faulty)

    crew = HereCrew()
    stack.callback(crew.close)
    crew.add("node", Desk(1, "node", make_pool), announce("node", host_target()))
    nodes = Fleet(crew)
    nodes.gather()
    told: list[Measurement] = []
    runner = FleetRunner(host_target(), nodes, told.append)
    stack.callback(runner.close)
    return Case(runner, FaultySpace(make_task()), GOOD, host_target().key, config(Deed.CRASH_IN_RUN), told)


def table(stack: ExitStack) -> Case:
    """The replay of a recorded table."""
    found = replay.read(Path(replay.__file__).parent / "tables/dense-512x512x512.parquet")
    assert set(found.outcomes) == {Outcome.OK}
    told: list[Measurement] = []
    runner = replay.ReplayRunner(found, on_measurement=told.append)
    space = replay.ReplaySpace(found)
    return Case(runner, space, found.configs[:6], found.target, told=told, clock=runner.clock)


def known_latencies(stack: ExitStack) -> Case:
    """The replay of latencies that a test knows."""
    clock, told = Clock(), list[Measurement]()

    class Store(MemoryStore):
        def add(self, measurements: object) -> None:
            told.extend(measurements)  # type: ignore[arg-type]

    def latency(configs: Configs) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.where(configs[:, -1] == 9, math.nan, 1e-3)

    space = ToySpace(plain(10, 10))
    rows = np.asarray([(0, which) for which in range(6)], dtype=np.int32)
    runner = Replay(Store(), {space.task.key: latency}, clock)
    return Case(runner, space, rows, TARGET.key, (0, 9), told, clock)


MAKERS: dict[Callable[[ExitStack], Case], tuple[Check, ...]] = {
    local_pool: (*AS_RUNNER, *AS_FALLIBLE, *AS_RACER, *AS_POOL),
    fleet: (*AS_RUNNER, *AS_FALLIBLE, *AS_RACER, *AS_PARALLEL, *AS_POOL),
    table: AS_RUNNER,
    known_latencies: (*AS_RUNNER, *AS_FALLIBLE),
}


@pytest.fixture(scope="module")
def cases() -> Iterator[dict[Callable[[ExitStack], Case], Case]]:
    """The runners, each made at its first test: workers take seconds to start."""
    with ExitStack() as stack:

        class Made(dict[Callable[[ExitStack], Case], Case]):
            def __missing__(self, maker: Callable[[ExitStack], Case]) -> Case:
                self[maker] = maker(stack)
                return self[maker]

        yield Made()


@pytest.mark.parametrize(
    ("maker", "check"),
    [pytest.param(m, c, id=f"{m.__name__} {c.__name__}") for m, checks in MAKERS.items() for c in checks],
)
def test_a_runner(
    maker: Callable[[ExitStack], Case], check: Check, cases: dict[Callable[[ExitStack], Case], Case]
) -> None:
    check(cases[maker])


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_a_fleet_on_a_cluster_of_ray() -> None:
    require(host_target())
    with IsolatedCall(check_on_ray, environment={"TVM_NUM_THREADS": "1"}) as call:
        assert call.result() == {}
