"""Tuning on many machines: two real nodes against one, a builder, fifty simulated nodes, processes that are killed.

    python -m bench.fleet --json f.json

- ``trials_ratio``: trials per second of two nodes of one core each on this machine, over those of one; the median of
  paired turns. ``best_ratio``: the estimated latency that both had reached after the same seconds, two over one.
- ``builder_ratio``: trials per second of a node of one core with a builder of one core, over those without; the median
  of paired turns. ``builder_best_ratio``: as ``best_ratio``. ``built``: the share of the trials that it compiled.
- ``head_cpu``: cores that the head takes for fifty simulated nodes, whose measuring is replaced by the delays of
  recorded tables. ``scaling``: their trials per second over those of five, divided by ten.
- ``kills_survived``, ``records_lost``, ``records_doubled``: the command, a node, its processes and the database are
  killed with ``kill -9`` at random moments.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import replay
from bench._fleet_kills import kill_fleets
from bench._ray_cluster import LocalCluster, cluster
from bench._recorded import dense
from tilewright.cli.boundary import write_json
from tilewright.fleet.cluster import connected
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.runner import FleetRunner
from tilewright.graph.tasks import task_of
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.measure.outcome import Measurement
from tilewright.methods.default import default, known_beforehand
from tilewright.methods.method import Method
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.budget import Budget
from tilewright.tuning.context import TuningContext
from tilewright.tuning.scheduler import NetworkTuner

PARTS = ("nodes", "builder", "simulated", "kills")
#: Extents of the matrix products that two nodes tune.
PRODUCTS = ((64, 64, 64), (64, 128, 64), (128, 64, 128), (32, 256, 64), (64, 256, 128), (128, 128, 128))


@dataclass(frozen=True)
class _Use:
    task: Task
    weight: float = 1.0


@dataclass(frozen=True)
class _Run:
    """What a tuning brought.

    Attributes:
        trials: measured.
        seconds: that it took.
        latency: the sum of the tasks' best, in seconds.
        head_cpu: cores that this process took.
        lost, doubled: measurements that the nodes reported and the store has not, or has twice.
    """

    trials: int
    seconds: float
    latency: float
    head_cpu: float
    lost: int
    doubled: int

    @property
    def rate(self) -> float:
        return self.trials / self.seconds


def tune(
    fleet: Fleet,
    target: Target,
    tasks: Sequence[Task],
    seconds: float,
    make_space: Callable[[Task, Target], DesignSpace] | None,
    method: Method,
) -> _Run:
    """Tune tasks on the nodes that measure, for some seconds."""
    store = MemoryStore()

    def note(measurement: Measurement) -> None:
        store.add([measurement])

    before = sum(member.trials for member in fleet.members.values())
    runner = FleetRunner(target, fleet, note)
    budget = Budget(seconds + 3600.0).start()
    tuner = NetworkTuner(
        [_Use(task) for task in tasks],
        TuningContext(target, runner, store, budget, np.random.default_rng(0)),
        method=method,
        make_space=make_space,
    )
    tuner.prepare()
    cpu, began = time.process_time(), time.monotonic()
    tuner.run(reserve=budget.remaining_seconds - seconds, finalists=0)
    spent, wall = time.process_time() - cpu, time.monotonic() - began
    stored = list(store.scan(Query()))
    reported = sum(member.trials for member in fleet.members.values()) - before
    distinct = len({(m.task, m.config) for m in stored if m.ok}) + sum(not m.ok for m in stored)
    best = [tuner.tuners[task.key].best_seconds for task in tasks]
    return _Run(tuner.trials, wall, sum(best), spent / wall, reported - len(stored), len(stored) - distinct)


def resting(fleet: Fleet, nodes: Sequence[str]) -> None:
    """From now on only these nodes measure."""
    for node, member in fleet.members.items():
        member.state = "measuring" if node in nodes else "resting"


def compare_nodes(turns: int, seconds: float) -> dict[str, Any]:
    """Two real nodes against one, by turns."""
    method = default(known_beforehand()[0])
    with cluster(1, 1, pinned=True) as made, _environment(made), connected(made.address) as crew:
        fleet = Fleet(crew)
        fleet.gather()
        both = fleet.measuring()
        target = next(iter(fleet.kinds.values()))
        tasks = [task_of(f"dense{m}x{k}x{n}", dense(m, k, n)) for m, k, n in PRODUCTS]
        for node in both:  # its workers start
            resting(fleet, [node])
            tune(fleet, target, tasks, 8.0, None, method)
        runs: dict[int, list[_Run]] = {1: [], 2: []}
        for turn in range(turns):
            for count in (1, 2) if turn % 2 else (2, 1):
                resting(fleet, both[:count] if turn % 2 else both[-count:])
                runs[count].append(tune(fleet, target, tasks, seconds, None, method))
        resting(fleet, both)
    pairs = list(zip(runs[1], runs[2], strict=True))
    return {
        "trials_ratio": statistics.median(two.rate / one.rate for one, two in pairs),
        "best_ratio": statistics.median(two.latency / one.latency for one, two in pairs),
        "trials_per_second": {str(count): [run.rate for run in found] for count, found in runs.items()},
        "real_head_cpu": statistics.median(run.head_cpu for run in runs[2]),
    }


def compare_builder(turns: int, seconds: float) -> dict[str, Any]:
    """A real node with a builder against the node alone, by turns."""
    method = default(known_beforehand()[0])
    with cluster(1, pinned=True) as made, _environment(made), connected(made.address) as crew:
        made.start(1, pinned=1 % (os.cpu_count() or 1), builder=True)
        fleet = Fleet(crew)
        while not any(member.state == "building" for member in fleet.members.values()):
            fleet.gather()
            fleet.events(0.5)
        target = next(iter(fleet.kinds.values()))
        (builder,) = fleet.building(target)
        tasks = [task_of(f"dense{m}x{k}x{n}", dense(m, k, n)) for m, k, n in PRODUCTS]
        tune(fleet, target, tasks, 8.0, None, method)  # the workers start
        runs: dict[bool, list[_Run]] = {False: [], True: []}
        before = fleet.members[builder].built
        for turn in range(turns):
            for helped in (False, True) if turn % 2 else (True, False):
                fleet.members[builder].state = "building" if helped else "resting"
                runs[helped].append(tune(fleet, target, tasks, seconds, None, method))
        built = fleet.members[builder].built - before
    pairs = list(zip(runs[False], runs[True], strict=True))
    return {
        "builder_ratio": statistics.median(two.rate / one.rate for one, two in pairs),
        "builder_best_ratio": statistics.median(two.latency / one.latency for one, two in pairs),
        "built": built / sum(run.trials for run in runs[True]),
        "builder_trials_per_second": {
            "alone": [a.rate for a, _ in pairs],
            "with a builder": [b.rate for _, b in pairs],
        },
        "builder_lost": sum(run.lost for pair in pairs for run in pair),
        "builder_doubled": sum(run.doubled for pair in pairs for run in pair),
    }


def simulate(count: int, few: int, seconds: float) -> dict[str, Any]:
    """Simulated nodes: many against few."""
    method = default(known_beforehand()[0])

    def make_space(task: Task, target: Target) -> DesignSpace:
        return replay.ReplaySpace(tables()[task.key])

    with cluster(2) as made, _environment(made), connected(made.address):
        from bench._simulated_nodes import TARGET, SimulatedCrew, tables  # imports Ray

        tasks = [table.task for table in tables().values()]
        crew = SimulatedCrew(count)
        fleet = Fleet(crew)
        fleet.gather(first=600.0, others=600.0)
        nodes = fleet.measuring()
        found = {}
        for number in (few, count):
            resting(fleet, nodes[:number])
            found[number] = tune(fleet, TARGET, tasks, seconds, make_space, method)
        crew.close()
    most, least = found[count], found[few]
    return {
        "simulated_nodes": count,
        "head_cpu": most.head_cpu,
        "scaling": most.rate / least.rate * few / count,
        "simulated_trials_per_second": {str(number): run.rate for number, run in found.items()},
        "simulated_lost": most.lost + least.lost,
        "simulated_doubled": most.doubled + least.doubled,
    }


class _environment:  # noqa: N801 - a context manager
    """The environment of a cluster, for the commands and connections of a block."""

    def __init__(self, made: LocalCluster) -> None:
        self._changed = {name: value for name, value in made.environment.items() if os.environ.get(name) != value}
        self._before = {name: os.environ.get(name) for name in self._changed}

    def __enter__(self) -> None:
        os.environ.update(self._changed)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _apart(name: str, *arguments: float) -> dict[str, Any]:
    """Call a function of this module in a process of its own: Ray reads the token of a cluster once."""
    with IsolatedCall(getattr(importlib.import_module("bench.fleet"), name), *arguments) as call:
        found = call.result()
    assert isinstance(found, dict)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each turn")
    parser.add_argument("--simulated", type=int, default=50)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"machine": Target.parse().machine, "date": time.strftime("%Y-%m-%d")}
    parts = arguments.parts.split(",")
    if "nodes" in parts:
        report |= _apart("compare_nodes", arguments.turns, arguments.seconds)
    if "builder" in parts:
        report |= _apart("compare_builder", arguments.turns, arguments.seconds)
    if "simulated" in parts:
        few = max(1, arguments.simulated // 10)
        report |= _apart("simulate", arguments.simulated, few, arguments.seconds)
    if "kills" in parts:
        report |= kill_fleets(arguments.kills)
    for name, value in report.items():
        print(f"{name}: {value}")
    write_json(arguments.json, report)


if __name__ == "__main__":
    main()
