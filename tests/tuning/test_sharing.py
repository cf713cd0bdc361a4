"""Tasks that borrow from each other and from earlier networks, on families of toy spaces with known latencies."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import ToySpace
from tests.tuning.replay import TARGET, Clock, Latency, Replay, Use
from tilewright.errors import SpaceError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records.memory import MemoryStore
from tilewright.share.cluster import clique_clusters
from tilewright.share.similarity import overlap
from tilewright.space.configs import sample
from tilewright.space.knob import ChoiceKnob, OrderKnob, SplitKnob
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.budget import Budget
from tilewright.tuning.method import quick
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.sharing import Sharing
from tilewright.tuning.tuner import TaskTuner

#: Rows of the tasks of a family; all are products of a matrix with one of 96 columns.
ROWS = (48, 96, 192, 384, 80, 640)
ALL = Sharing(overlap, clique_clusters, 0.0)


def product(rows: int, name: str = "") -> ToySpace:
    """A tiled product of 5,000 to 23,000 configs, most of them valid."""
    knobs = (
        SplitKnob.exact("tile_m", rows, 3),
        SplitKnob.exact("tile_n", 96, 2),
        ChoiceKnob.of("unroll", [1, 2, 4, 8]),
        OrderKnob.of("order", [(0, 1), (1, 0)]),
        ChoiceKnob.of("parallel", [0, 1, 2]),
    )
    key = name or f"m{rows}"
    task = Task(key, key, "auto", 1e4 * rows, f"rows {rows}")
    return ToySpace(knobs, lambda c: knobs[0].table[c[:, 0], 2] * knobs[1].table[c[:, 1], 1] <= 192, task=task)


def seconds_of(rows: int, wanted: tuple[float, ...] = (8.0, 4.0, 24.0, 4.0), share: float = 1.0) -> Latency:
    """Fastest at some inner factors and an unroll, whatever the rows; a task's own wish is a small part of it."""
    space = product(rows)

    def latency(configs: Configs) -> NDArray[np.float64]:
        m, n, u, o, p = (knob.table[configs[:, i]].astype(float) for i, knob in enumerate(space.knobs))
        parts = np.stack([m[:, 1], m[:, 2], n[:, 1], u[:, 0]], axis=1)
        off = np.abs(np.log2(parts) - np.log2(np.asarray(wanted))).sum(axis=1)
        off = off + 0.5 * np.abs(p[:, 0] - 1) + 0.3 * o[:, 0]
        return np.asarray(1e-7 * rows * share * (1.0 + 0.25 * off))

    return latency


def best_of(rows: int, latency: Latency) -> float:
    return float(latency(sample(product(rows), np.random.default_rng(0), 1 << 15)).min())


SPACES = {space.task.key: space for space in (product(rows) for rows in ROWS)}


def space_of(task: Task, target: Target) -> DesignSpace:
    if task.ir == "broken":
        raise SpaceError("no space serves it")
    return replace(SPACES[f"m{task.ir.split()[-1]}"], task=task)


def tune(
    latencies: dict[str, Latency],
    budget: Budget,
    sharing: Sharing | None,
    *,
    store: MemoryStore | None = None,
    seed: int = 0,
) -> tuple[NetworkTuner, Replay]:
    clock = Clock()
    store = MemoryStore() if store is None else store
    runner = Replay(store, latencies, clock)
    uses = [Use(SPACES[key].task) for key in latencies]
    for use in uses:
        store.describe(use.task)
    tuner = NetworkTuner(
        uses,
        TARGET,
        runner,
        store,
        budget.start(clock=clock),
        np.random.default_rng(seed),
        method=quick(),
        make_space=space_of,
        sharing=sharing,
    )
    tuner.run(race=0)
    return tuner, runner


def trials(runner: Replay) -> Counter[str]:
    return Counter(key for key, _, _ in runner.log)


ALIKE: dict[str, Latency] = {f"m{rows}": seconds_of(rows) for rows in ROWS}


@pytest.mark.parametrize("seed", range(3))
def test_alike_tasks_reach_with_a_quarter_of_the_trials_what_tuning_each_reaches(seed: int) -> None:
    alone, _ = tune(ALIKE, Budget(trials=480), None, seed=seed)
    shared, runner = tune(ALIKE, Budget(trials=120), ALL, seed=seed)
    assert shared.trials == len(runner.log) == 120
    assert alone.estimated_latency is not None
    assert shared.estimated_latency is not None
    assert shared.estimated_latency <= alone.estimated_latency / 0.98


@pytest.mark.parametrize("seed", range(3))
def test_where_similarity_misleads_little_is_lost(seed: int) -> None:
    wishes = [(8.0, 4.0, 24.0, 4.0), (1.0, 1.0, 2.0, 8.0), (2.0, 16.0, 1.0, 1.0), (16.0, 1.0, 96.0, 8.0)]
    unlike: dict[str, Latency] = {
        f"m{rows}": seconds_of(rows, wish) for rows, wish in zip(ROWS[:4], wishes, strict=True)
    }
    alone, _ = tune(unlike, Budget(trials=320), None, seed=seed)
    shared, runner = tune(unlike, Budget(trials=320), ALL, seed=seed)
    assert alone.estimated_latency is not None
    assert shared.estimated_latency is not None
    assert shared.estimated_latency <= 1.03 * alone.estimated_latency
    assert min(trials(runner).values()) >= 30
