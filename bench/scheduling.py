"""Compares rules that divide a budget among the tasks of a network, on recorded tables.

    python -m bench.scheduling --seeds 10 --json scheduling.json

The network consists of all recorded tables, each as two tasks, with weights drawn from 1 to 8. Seconds are simulated:
building and timing as recorded, plus the overhead of a round. A row is a rule. Its figures are the network's latency
over that of the tables' optima after some simulated seconds, as the geometric mean over seeds with its 95 % interval,
and the same for the mean latency over the logarithm of time.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.replay import Clock, ReplayRunner, ReplaySpace, Table, read
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table as text_table
from tilewright.measure.outcome import Measurement
from tilewright.methods.default import default, known_beforehand
from tilewright.methods.method import Method
from tilewright.records.memory import MemoryStore
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.budget import Budget
from tilewright.tuning.context import Scheduling, TuningContext
from tilewright.tuning.priorities import Rule, ansor_gains, learning_gains
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.task_state import TaskSnapshot

TABLES = Path(__file__).parent / "tables"
#: Tasks made of each table.
COPIES = 2
#: Simulated seconds of a round besides building and timing: proposing, and waiting for the slower worker.
ROUND_SECONDS = 0.2
SECONDS = 240.0
AT = (15.0, 30.0, 60.0, 120.0, 240.0)
RESAMPLES = 2000


def even_gains(live: Sequence[TaskSnapshot], tasks: Sequence[TaskSnapshot], round_size: int) -> list[float]:
    """Everybody the same number of trials."""
    return [1.0 / (1.0 + task.measured) for task in live]


RULES: dict[str, Rule] = {"learning curves": learning_gains, "Ansor's": ansor_gains, "even": even_gains}


@dataclass(frozen=True)
class _Use:
    task: Task
    weight: int


class _Runner:
    """Replays several tables on one clock."""

    def __init__(self, tables: dict[str, Table], clock: Clock) -> None:
        self._runners = {key: ReplayRunner(table, clock) for key, table in tables.items()}
        self._clock = clock

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        self._clock.now += ROUND_SECONDS
        found = self._runners[space.task.key].measure(space, configs, best, deadline)
        return [replace(m, task=space.task.key) for m in found]


@cache
def tables() -> tuple[Table, ...]:
    return tuple(read(path) for path in sorted(TABLES.glob("*.parquet")))


@cache
def method() -> Method:
    return default(known_beforehand()[0])


def run(rule: str, first: int, size: int, seed: int) -> list[tuple[float, float]]:
    """Simulated seconds, and the network's latency over the optimum from then on."""
    rng = np.random.default_rng(seed)
    uses, spaces, recorded = [], {}, {}
    for table, copy in product(tables(), range(COPIES)):
        task = replace(table.task, key=f"{table.task.key}-{copy}")
        space = ReplaySpace(table)
        space.task = task
        uses.append(_Use(task, int(2 ** rng.integers(0, 4))))
        spaces[task.key], recorded[task.key] = space, table
    optimum = sum(use.weight * recorded[use.task.key].optimum for use in uses)
    clock = Clock()
    budget = Budget(SECONDS).start(began=0.0, clock=clock)
    tuner = NetworkTuner(
        uses,
        TuningContext(Target.parse("native"), _Runner(recorded, clock), MemoryStore(), budget, rng),
        method=replace(method(), sharing=None),
        make_space=lambda task, target: spaces[task.key],
        scheduling=Scheduling(first_round=first, round_size=size, rule=RULES[rule]),
    )
    with threadpool_limits(1):
        tuner.run(finalists=0)
    return [(seconds, latency / optimum) for seconds, latency in tuner.curve]


def at(curve: Sequence[tuple[float, float]], seconds: float) -> float:
    """The latency over the optimum after ``seconds``; before the first latency, that one."""
    known = [latency for when, latency in curve if when <= seconds]
    return known[-1] if known else curve[0][1]


def row(name: dict[str, Any], curves: Sequence[Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """One rule's figures over all seeds."""
    figures: dict[str, Any] = {**name, "seeds": len(curves)}
    grid = np.geomspace(AT[0], AT[-1], 60)
    for label, values in [
        *((f"{seconds:g}", [at(curve, seconds) for curve in curves]) for seconds in AT),
        ("mean", [float(np.exp(np.mean([math.log(at(curve, t)) for t in grid]))) for curve in curves]),
    ]:
        logs = np.log(values)
        draws = np.random.default_rng(0).integers(0, len(logs), size=(RESAMPLES, len(logs)))
        low, high = np.quantile(np.exp(logs[draws].mean(axis=1)), [0.025, 0.975])
        figures[label] = {"mean": float(np.exp(logs.mean())), "low": float(low), "high": float(high)}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--first", default="4", help="candidates of a task's first round, comma-separated")
    parser.add_argument("--size", default="16", help="candidates of the other rounds, comma-separated")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cells = list(
        product(arguments.rules.split(","), map(int, arguments.first.split(",")), map(int, arguments.size.split(",")))
    )
    rows = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        started = [[pool.submit(run, *cell, seed) for seed in range(arguments.seeds)] for cell in cells]
        for (rule, first, size), futures in zip(cells, started, strict=True):
            rows.append(row({"rule": rule, "first": first, "size": size}, [f.result() for f in futures]))
            print(show(rows[-1:]), flush=True)
    print(show(rows))
    write_json(arguments.json, {"rows": rows})


def show(rows: Sequence[dict[str, Any]]) -> str:
    labels = [*(f"{seconds:g}" for seconds in AT), "mean"]
    head = ["rule", "first", "size", *(f"{label} s" if label != "mean" else label for label in labels)]
    cells = [
        [f"{r[label]['mean']:.3f} ({r[label]['low']:.3f} to {r[label]['high']:.3f})" for label in labels] for r in rows
    ]
    return text_table(
        head, [[r["rule"], str(r["first"]), str(r["size"]), *c] for r, c in zip(rows, cells, strict=True)]
    )


if __name__ == "__main__":
    main()
