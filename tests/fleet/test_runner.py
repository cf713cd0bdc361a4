"""Candidates on the nodes of a fleet: whose they are, and what becomes of them when nodes go, come, or lie."""

from __future__ import annotations

import math
import platform
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from tests.fleet.here import HereCrew, announce, configs, keys, space_named, toy_fleet
from tests.tuning.replay import TARGET, Use, task
from tilewright.errors import FleetError, MeasureError
from tilewright.fleet.canary import CanaryAnswer
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.place import choose_kinds
from tilewright.fleet.runner import FleetRunner
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.runner import Job, ParallelRunner, Racer
from tilewright.methods.autotvm import quick
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query
from tilewright.space.space import Configs
from tilewright.tuning.budget import Budget
from tilewright.tuning.context import Scheduling, TuningContext
from tilewright.tuning.scheduler import NetworkTuner


def soon() -> float:
    return time.monotonic() + 60.0


def measure(runner: FleetRunner, rows: Configs, key: str = "a", deadline: float | None = None) -> list[Measurement]:
    return runner.measure(space_named(key), rows, math.inf, soon() if deadline is None else deadline)


def test_a_batch_is_shared_by_the_nodes_and_comes_back_in_order() -> None:
    told: list[Measurement] = []
    with toy_fleet("one", "two") as (fleet, crew):
        runner = FleetRunner(TARGET, fleet, told.append)
        assert isinstance(runner, ParallelRunner)
        assert isinstance(runner, Racer)
        measured = measure(runner, configs(40))
        assert keys(measured) == [tuple(row) for row in configs(40).tolist()]
        assert Counter(m.outcome for m in measured) == {Outcome.OK: 36, Outcome.RUN_CRASHED: 4}
        assert {m.anchor for m in measured} == {1e-3}  # what the pool knew only in the end
        assert sorted(keys(told)) == sorted(keys(measured))
        assert all(pool.asked for pool in crew.pools.values())
        assert sum(node.trials for node in runner.nodes) == runner.statistics.measured == 40
        assert measure(runner, configs(0)) == []
        assert measure(runner, configs(8), deadline=time.monotonic() - 1.0) == []


def test_a_race_stays_on_one_node() -> None:
    with toy_fleet("one", "two") as (fleet, crew):
        runner = FleetRunner(TARGET, fleet)
        assert len(runner.race(space_named("a"), configs(8), soon())) == 8
        assert len(crew.pools) == 1


def test_several_batches_go_on_at_once() -> None:
    with toy_fleet("one", "two") as (fleet, _):
        runner = FleetRunner(TARGET, fleet)
        assert (runner.machines, runner.slots) == (2, 3)
        for ticket in range(4):
            runner.submit(ticket, Job(space_named(f"task{ticket}"), configs(5, ticket), math.inf, soon()))
        done: dict[int, list[Measurement]] = {}
        while len(done) < 4:
            done |= dict(runner.finished())
        assert {ticket: {m.task for m in measured} for ticket, measured in done.items()} == {
            ticket: {f"task{ticket}"} for ticket in range(4)
        }


def test_a_lost_node_costs_what_was_in_flight() -> None:
    told: list[Measurement] = []
    lines: list[str] = []
    with toy_fleet("steady", told=lines) as (fleet, crew):
        crew.join("shaky", free=3)
        fleet.events(0.0)
        runner = FleetRunner(TARGET, fleet, told.append)
        runner.submit(1, Job(space_named("a"), configs(32), math.inf, soon()))
        while fleet.members["shaky"].trials < 3:
            runner.listen(0.05)
        crew.lose("shaky")
        measured = dict(runner.finished())[1]
        assert len(measured) == 32
        assert max(Counter(keys(told)).values()) == 1  # none is lost, none doubled
        assert len(told) == 32
        assert [node.state for node in runner.nodes] == ["measuring", "lost"]
        assert lines[-1] == "node shaky is lost (its plug was pulled); 1 node of its kind left"


def test_nodes_join_while_it_measures() -> None:
    with toy_fleet("one") as (fleet, crew):
        runner = FleetRunner(TARGET, fleet)
        assert len(measure(runner, configs(4))) == 4
        crew.join("late")
        crew.join("other", replace(TARGET, machine="another"))
        assert len(measure(runner, configs(4))) == 4
        measure(runner, configs(40))
        assert set(crew.pools) == {"one", "late"}  # the third is of another kind
        crew.lose("one")
        crew.lose("late")
        threading.Timer(0.3, crew.join, ("spare",)).start()
        assert len(measure(runner, configs(8))) == 8


def test_impossible_times_exclude_a_node() -> None:
    told: list[Measurement] = []
    lines: list[str] = []
    with toy_fleet("honest", told=lines) as (fleet, crew):
        crew.join("liar", factor=1e-3)
        measured = measure(FleetRunner(TARGET, fleet, told.append), configs(40))
        assert {m.seconds for m in measured if m.ok} == {1e-3}
        assert sorted(keys(told)) == sorted(keys(measured))
        assert len(measured) == 40
        assert fleet.members["liar"].state == "excluded"
        assert "node liar is excluded: its times are impossible: 1 us where the roofline allows 9.52 us" in lines


def test_what_two_nodes_find_is_believed() -> None:
    lines: list[str] = []
    with toy_fleet(told=lines) as (fleet, crew):
        crew.join("one", factor=1e-3)  # the bound is wrong: its operations were counted too generously
        fleet.gather()
        runner = FleetRunner(TARGET, fleet)
        assert {m.seconds for m in measure(runner, configs(9))} == {1e-6}  # a single node is believed
        crew.join("two", factor=1e-3)
        fleet.events(0.0)
        assert {m.seconds for m in measure(runner, configs(40), "b") if m.ok} == {1e-6}
        assert fleet.measuring() == ["one", "two"]


def test_a_node_whose_default_is_wrong_is_excluded() -> None:
    lines: list[str] = []
    with toy_fleet(told=lines) as (fleet, crew):
        crew.join("bad", wrong=True)
        fleet.gather()
        crew.join("good")
        fleet.events(0.0)
        runner = FleetRunner(TARGET, fleet)
        runner.submit(1, Job(space_named("a"), configs(1), math.inf, soon()))  # the default, on the first node
        ((_, (measured,)),) = runner.finished()
        assert measured.ok
        assert "node bad is excluded: it computes wrong results: twice the same kernel differs" in lines


def test_a_node_that_cannot_measure_is_excluded() -> None:
    lines: list[str] = []
    with toy_fleet("one", told=lines) as (fleet, crew):
        crew.join("bad", broken="measuring needs worker processes, but none can be started")
        assert len(measure(FleetRunner(TARGET, fleet), configs(40))) == 40
        assert "node bad is excluded: it cannot measure: measuring needs worker processes" in lines[-1]


@pytest.mark.parametrize(
    ("canary", "message"),
    [
        (CanaryAnswer(np.zeros((96, 96), dtype=np.float32), 1.0), "it computes wrong results"),
        (CanaryAnswer(announce("x").canary.product, 1e-9), "its times are impossible"),
    ],
)
def test_a_canary_finds_a_node_that_lies(canary: CanaryAnswer, message: str) -> None:
    crew, lines = HereCrew(), list[str]()
    crew.join("liar", announcement=announce("liar", canary=canary))
    with pytest.raises(FleetError, match=f"node liar cannot take part: {message}"):
        Fleet(crew).gather()
    crew.join("liar", announcement=announce("liar", canary=canary))
    crew.join("honest")
    fleet = Fleet(crew, lines.append)
    fleet.gather()  # the others go on without it
    assert fleet.measuring() == ["honest"]
    assert lines[0].startswith(f"node liar is excluded: {message}")
    crew.close()


def test_a_fleet_of_builders_only_is_an_error() -> None:
    crew = HereCrew()
    crew.join_builder("one")
    crew.join_builder("other")
    says = "the cluster has builders only: one, other; start a node without TILEWRIGHT_NODE_BUILDER"
    with pytest.raises(FleetError, match=says):
        Fleet(crew).gather()
    crew.close()


def test_a_fleet_without_nodes_is_an_error() -> None:
    with toy_fleet() as (fleet, _), pytest.raises(FleetError, match="needs a node that measures"):
        fleet.gather(first=0.05)


def test_a_deserted_runner_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.fleet.runner._DESERTED", 0.1)
    with toy_fleet("one") as (fleet, crew):
        crew.lose("one")
        with pytest.raises(MeasureError, match="needs a node of kind znver3-2x"):
            measure(FleetRunner(TARGET, fleet), configs(4), deadline=math.inf)


def test_a_network_is_tuned_on_all_nodes_within_its_trials() -> None:
    store = MemoryStore()
    with toy_fleet("one", "two", "three") as (fleet, crew):
        runner = FleetRunner(TARGET, fleet, lambda m: store.add([m]))
        tuner = NetworkTuner(
            [Use(task(key)) for key in ("a", "b")],
            TuningContext(TARGET, runner, store, Budget(trials=150).start(), np.random.default_rng(0)),
            method=replace(quick(), sharing=None),
            scheduling=Scheduling(),
            make_space=lambda task, target: space_named(task.key),
        )
        tuner.run(finalists=2)
        assert tuner.trials == 150
        assert len(crew.pools) == 3
        found = Counter(m.config for m in store.scan(Query(task="a")) if m.ok)  # what crashed is tried again
        assert len(list(store.scan(Query()))) == 150 + tuner.remeasured
        assert sum(count > 1 for count in found.values()) <= 3  # the finalists alone


def test_an_interrupt_keeps_what_was_measured() -> None:
    store = MemoryStore()

    def add(measurement: Measurement) -> None:
        store.add([measurement])
        if len(list(store.scan(Query()))) == 20:
            raise KeyboardInterrupt

    with toy_fleet("one", "two") as (fleet, _):
        runner = FleetRunner(TARGET, fleet, add)
        tuner = NetworkTuner(
            [Use(task(key)) for key in ("a", "b", "c")],
            TuningContext(TARGET, runner, store, Budget(trials=150).start(), np.random.default_rng(0)),
            method=replace(quick(), sharing=None),
            make_space=lambda task, target: space_named(task.key),
        )
        tuner.run()
        assert tuner.interrupted
        assert tuner.trials == 20


def test_kinds_are_named_by_their_beginning() -> None:
    with toy_fleet("one") as (fleet, crew):
        (first,) = fleet.kinds
        assert choose_kinds(fleet, []) == [first]
        with pytest.raises(FleetError, match=f"none of its nodes is of kind 'a64fx'; it has {first}"):
            choose_kinds(fleet, ["a64fx"])
        crew.join("other", replace(TARGET, cores=4))
        fleet.events(0.0)
        second = next(kind for kind in fleet.kinds if kind != first)
        assert choose_kinds(fleet, ["znver3-4x"]) == [second]
        assert choose_kinds(fleet, ["all"]) == [first, second]
        with pytest.raises(FleetError, match=r"the fleet has several kinds of machine: .*; choose some with --kind"):
            choose_kinds(fleet, [])


@contextmanager
def fleet_with_builder(*lines: list[str], **toy: object) -> Iterator[tuple[Fleet, HereCrew]]:
    """A node that measures, and a builder."""
    with toy_fleet("one", told=lines[0] if lines else None) as (fleet, crew):
        crew.join_builder("builder", None, **toy)
        fleet.events(0.0)
        yield fleet, crew


def test_a_builder_compiles_what_a_node_measures() -> None:
    told: list[Measurement] = []
    with fleet_with_builder() as (fleet, crew):
        runner = FleetRunner(TARGET, fleet, told.append)
        assert (runner.machines, runner.slots, list(fleet.kinds)) == (1, 4, [announce("one").kind])
        measured = measure(runner, configs(80))
        assert keys(measured) == [tuple(row) for row in configs(80).tolist()]
        assert max(Counter(keys(told)).values()) == 1
        one, builder = runner.nodes
        assert (one.state, one.trials, one.built) == ("measuring", 80, 0)
        assert (builder.state, builder.trials) == ("building", 0)
        assert crew.pools["one"].loaded == builder.built > 0
        assert runner.race(space_named("a"), configs(8), soon())  # its finalists are built where they are timed
        assert runner.nodes[1].built == builder.built


@pytest.mark.parametrize("lost", [False, True])
def test_a_lost_builder_costs_nothing_but_time(lost: bool) -> None:
    told: list[Measurement] = []
    lines: list[str] = []
    gate = threading.Event()
    with fleet_with_builder(lines, gate=gate) as (fleet, crew):
        crew.depot.lost = not lost  # or only what it has compiled is lost
        runner = FleetRunner(TARGET, fleet, told.append)
        runner.submit(1, Job(space_named("a"), configs(64), math.inf, soon()))
        runner.listen(0.05)
        if lost:
            crew.lose("builder")
        gate.set()
        measured = dict(runner.finished())[1]
        assert len(measured) == len(told) == 64
        assert max(Counter(keys(told)).values()) == 1
        assert crew.pools["one"].loaded == 0
        if lost:
            assert lines[-1] == "node builder is lost (its plug was pulled); what it was to build, others build"


def test_a_builder_that_cannot_build_is_excluded() -> None:
    lines: list[str] = []
    with fleet_with_builder(lines, broken="there is no compiler") as (fleet, crew):
        assert len(measure(FleetRunner(TARGET, fleet), configs(64))) == 64
        assert lines[-1] == "node builder is excluded: it cannot build: there is no compiler"
        assert crew.pools["one"].loaded == 0


def test_a_builder_has_the_same_compiler_and_maybe_another_architecture() -> None:
    with toy_fleet("one") as (fleet, crew):
        crew.join_builder("other", announce("other", replace(TARGET, tvm_version="0.1")))
        crew.join_builder("foreign", replace(announce("foreign"), architecture="sparc"))
        fleet.events(0.0)
        assert fleet.building(TARGET) == ["foreign"]
        assert fleet.target_for("foreign", TARGET).triple == f"{platform.machine()}-linux-gnu"
        assert fleet.target_for("other", TARGET) == TARGET
        measure(FleetRunner(TARGET, fleet), configs(64))
        assert list(crew.builders) == ["foreign"]
        assert crew.builders["foreign"].target.triple


def test_a_fleet_of_builders_measures_nothing() -> None:
    with toy_fleet() as (fleet, crew):
        crew.join_builder("builder")
        with pytest.raises(FleetError, match="needs a node that measures"):
            fleet.gather(first=0.1)
