"""Records the data set on which cost models are trained and judged: tasks of many networks, on their full spaces.

    python -m bench.dataset --records dataset.db --out bench/dataset.parquet

Each network contributes at most nine contractions, from the heaviest to the lightest. Each of them has about 75 random
configs, and 75 configs that searches proposed (two rounds of Bayesian search, three of annealing on XGBoost's scores).
The tasks of all networks take turns, so that an unfinished recording has some of each. Measurements go to the records
first, so that an interrupted recording goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench import _models
from tilewright.cost.dataset import write_data_set
from tilewright.errors import SpaceError
from tilewright.frontend.load import load
from tilewright.graph.tasks import extract
from tilewright.measure.pool import LocalPool
from tilewright.methods.autotvm import quick
from tilewright.methods.method import Method
from tilewright.methods.parts import combine
from tilewright.ops.registry import make_space
from tilewright.records import open_store
from tilewright.records.store import Query, Store
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.algorithms import stages
from tilewright.tuning.collect import collect
from tilewright.tuning.tuner import TaskTuner

#: Tasks of a network, and products of Winograd's besides.
TASKS, PRODUCTS = 9, 2
#: Candidates of each task by each method, and of a round.
PLAN: tuple[tuple[Callable[[], Method], int], ...] = (
    (lambda: combine("random", "top"), 75),
    (lambda: combine("bayesian", "top"), 32),
    (quick, 43),
)
ROUND = 16
#: Tasks with more data than this (VGG's first dense layer) are left out: all that they do is wait for memory.
MOST_BYTES = 1e8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=Path("dataset.db"))
    parser.add_argument("--out", type=Path, default=Path("bench/dataset.parquet"))
    parser.add_argument("--target", default="native")
    parser.add_argument("--tasks", type=int, default=TASKS, help="of each network, at most")
    parser.add_argument("--share", type=float, default=1.0, help="of the candidates of each task")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long; run again to go on")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    target = Target.parse(arguments.target)
    lists = {name: chosen(name, target, arguments.tasks) for name in _models.NETWORKS}
    tasks = list(in_turns(lists))
    networks = {task.key: [name for name, of in lists.items() if task.key in {t.key for t in of}] for task in tasks}
    print(f"{len(tasks)} tasks", flush=True)
    with open_store(arguments.records) as store, LocalPool(target, on_measurement=lambda m: store.add([m])) as pool:
        for number, task in enumerate(tasks):
            record(task, target, pool, store, arguments.share, deadline)
            print(f"{number + 1} of {len(tasks)}: {task.name}; {pool.statistics}", flush=True)
            if time.monotonic() >= deadline:
                break
        data = collect(store, tasks, target, networks, "python -m bench.dataset")
    write_data_set(data, arguments.out)
    print(f"{len(data.tasks)} tasks, {sum(map(len, data.tasks))} programs, {arguments.out.stat().st_size / 1e6:.2f} MB")


def chosen(name: str, target: Target, count: int) -> list[Task]:
    """At most ``count`` of the contractions of a network, evenly from the heaviest on, and two of Winograd's."""
    extraction = extract(load(_models.model(name)), target)
    found = [use.task for use in extraction.uses if _fits(use.task, target)]
    places = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).astype(int))
    products = [
        stages(convolution, algorithm)[0]
        for convolution, _ in extraction.rewritten.convolutions
        for algorithm in convolution.algorithms[-1:]
        if algorithm != "direct"
    ]
    return [found[place] for place in places] + products[:PRODUCTS]


def _fits(task: Task, target: Target) -> bool:
    try:
        space = make_space(task, target)
    except SpaceError:
        return False
    return space.has_loop_nest and space.loop_nest(space.default()[None]).touched[0, :, 0].sum() <= MOST_BYTES


def in_turns(lists: dict[str, list[Task]]) -> Iterator[Task]:
    """The first of each list, the second of each, and so on; no task twice."""
    seen = set()
    for place in range(max(map(len, lists.values()))):
        for tasks in lists.values():
            if place < len(tasks) and tasks[place].key not in seen:
                seen.add(tasks[place].key)
                yield tasks[place]


def record(task: Task, target: Target, pool: LocalPool, store: Store, share: float, deadline: float) -> None:
    """Measure what is missing of a task."""
    space = make_space(task, target)
    store.describe(task)
    have = sum(1 for _ in store.scan(Query(task.key, target.key, space.template)))
    wanted = 0
    for method, count in PLAN:
        wanted += round(share * count)
        if have >= wanted:
            continue
        tuner = TaskTuner(space, target, pool, store, np.random.default_rng(wanted), method())
        while have + tuner.trials < wanted and not tuner.exhausted and time.monotonic() < deadline:
            tuner.round(min(ROUND, wanted - have - tuner.trials), deadline)
        have += tuner.trials


if __name__ == "__main__":
    main()
