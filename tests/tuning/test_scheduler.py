"""The network's loop, on toy spaces with known latencies and a clock that only trials move."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import ToySpace, plain
from tests.tuning.replay import TARGET, Clock, Latency, Replay, Use, bowl, failing, flat, task, wide
from tilewright.errors import SpaceError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.methods.autotvm import quick
from tilewright.records.memory import MemoryStore
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.budget import Budget
from tilewright.tuning.context import Scheduling, TuningContext
from tilewright.tuning.progress import SilentProgress, TuneState
from tilewright.tuning.roofline import Roofline
from tilewright.tuning.scheduler import NetworkTuner


@dataclass
class Watching(SilentProgress):
    states: list[TuneState] = field(default_factory=list)

    def update(self, state: TuneState) -> None:
        self.states.append(state)


def space_of(task: Task, target: Target) -> DesignSpace:
    if task.key == "unserved":
        raise SpaceError("no space serves it")
    if task.key == "tiny":
        return ToySpace(plain(3), task=task)
    return wide(task.key, task.flop)


def network(
    latencies: dict[str, Latency],
    budget: Budget,
    *,
    store: MemoryStore | None = None,
    uses: list[Use] | None = None,
    seed: int = 0,
    interrupt_after: int | None = None,
    progress: Watching | None = None,
    task_trials: float = math.inf,
    roofline: Roofline | None = None,
    make_space: Callable[[Task, Target], DesignSpace] = space_of,
) -> tuple[NetworkTuner, Replay]:
    clock = Clock()
    store = MemoryStore() if store is None else store
    runner = Replay(store, latencies, clock, interrupt_after)
    running = budget.start(clock=clock, progress=progress)
    tuner = NetworkTuner(
        uses if uses is not None else [Use(task(key)) for key in latencies],
        TuningContext(TARGET, runner, store, running, np.random.default_rng(seed)),
        # Of how rounds are given away; the default finds these toys' best so soon that none is worth more rounds.
        method=replace(quick(), sharing=None),
        scheduling=Scheduling(task_trials=task_trials),
        make_space=make_space,
        roofline=roofline,
    )
    return tuner, runner


def rounds(runner: Replay) -> Counter[str]:
    return Counter(key for key, _, _ in runner.log)


@pytest.mark.parametrize("trials", [1, 7, 50, 103])
def test_never_more_trials_than_the_budget_has(trials: int) -> None:
    tuner, runner = network({"a": bowl, "b": bowl, "c": flat}, Budget(trials=trials))
    tuner.run(finalists=0)
    assert tuner.trials == trials == len(runner.log)


def test_every_task_has_a_small_first_round_heaviest_first() -> None:
    uses = [Use(task("light", 1e3)), Use(task("heavy", 1e6), 2), Use(task("often", 1e5), 100)]
    tuner, runner = network(dict.fromkeys(("light", "heavy", "often"), bowl), Budget(trials=200), uses=uses)
    tuner.run()
    assert [key for key, _, _ in runner.log[:12]] == ["often"] * 4 + ["heavy"] * 4 + ["light"] * 4


def test_what_hardly_matters_has_its_default_alone_until_that_proves_slow() -> None:
    uses = [Use(task("heavy", 1e6)), Use(task("light", 1e4)), Use(task("poor", 1e4))]
    latencies: dict[str, Latency] = {
        "heavy": lambda c: 2e-4 * bowl(c) / 1e-3,
        "light": lambda c: 2e-6 * bowl(c) / 1e-3,
        "poor": bowl,
    }
    tuner, runner = network(latencies, Budget(trials=100), uses=uses, roofline=Roofline(1e10, 1e10))
    tuner.run()
    assert [key for key, _, _ in runner.log[:6]] == ["heavy"] * 4 + ["light", "poor"]
    counts = rounds(runner)
    assert counts["light"] < counts["heavy"]
    assert counts["poor"] > 8


def test_a_small_budget_still_reaches_every_task() -> None:
    keys = [f"task{i}" for i in range(10)]
    tuner, runner = network(dict.fromkeys(keys, bowl), Budget(trials=40))
    tuner.run(finalists=0)
    assert min(rounds(runner).values()) >= 2
    assert tuner.estimated_latency is not None


def test_a_task_has_no_more_trials_than_it_may() -> None:
    tuner, runner = network({"a": bowl, "b": bowl}, Budget(trials=300), task_trials=37)
    tuner.run(finalists=0)
    assert rounds(runner) == {"a": 37, "b": 37}


def test_the_time_is_kept_with_its_reserve() -> None:
    tuner, runner = network({"a": bowl, "b": flat}, Budget(seconds=200.0))
    tuner.run(reserve=50.0, finalist_seconds=10.0)
    assert 130.0 <= runner.clock.now <= 150.0
    assert tuner.remeasured <= 10  # 5 % of 200 s


# Budgets that end before the task with more to gain has gained it all: then both deserve the same.


@pytest.mark.parametrize("seed", range(3))
def test_the_task_with_more_to_gain_gets_more(seed: int) -> None:
    tuner, runner = network({"a": bowl, "settled": flat}, Budget(trials=120), seed=seed)
    tuner.run(finalists=0)
    assert rounds(runner)["a"] > 2 * rounds(runner)["settled"]


@pytest.mark.parametrize("seed", range(3))
def test_the_task_that_occurs_more_often_gets_more(seed: int) -> None:
    uses = [Use(task("a"), 1), Use(task("b"), 10)]
    tuner, runner = network({"a": bowl, "b": bowl}, Budget(trials=150), uses=uses, seed=seed)
    tuner.run(finalists=0)
    assert rounds(runner)["b"] > 1.5 * rounds(runner)["a"]


def test_a_dead_task_gets_no_more_and_is_counted() -> None:
    watching = Watching()
    tuner, runner = network({"a": bowl, "dead": failing}, Budget(trials=400), progress=watching)
    tuner.run(finalists=0)
    assert rounds(runner)["dead"] <= 3 * 16
    assert rounds(runner)["a"] >= 400 - 3 * 16
    report = tuner.report()
    assert report.tasks_without_success == 1
    assert report.failures == {"run_crashed": rounds(runner)["dead"]}
    assert report.tasks[1].best_seconds is None
    assert tuner.estimated_latency == tuner.tuners["a"].best_seconds
    assert watching.states[-1].tasks_without_success == 1


def test_all_dead_or_exhausted_ends_before_the_budget() -> None:
    tuner, _ = network({"tiny": flat, "dead": failing}, Budget(trials=10_000))
    tuner.run()
    assert tuner.trials <= 3 + 3 * 16
    assert tuner.tuners["tiny"].exhausted


def test_a_task_without_a_space_is_reported_and_the_others_tuned() -> None:
    tuner, _ = network({"a": bowl, "unserved": bowl}, Budget(trials=20))
    tuner.run()
    assert tuner.trials == 20
    assert tuner.report().tasks[1].problem == "no space serves it"
    assert set(tuner.tuners) == {"a"}


def test_a_space_that_fails_later_costs_only_its_own_task() -> None:
    def broken(configs: Configs) -> NDArray[np.float64]:
        raise SpaceError("the space broke")

    tuner, _ = network({"a": bowl, "broken": broken}, Budget(trials=30))
    tuner.run()
    assert tuner.trials == 30
    assert tuner.report().tasks[1].problem == "the space broke"
    assert tuner.estimated_latency == tuner.tuners["a"].best_seconds


@pytest.mark.parametrize("later", [False, True])
def test_a_space_that_raises_what_nobody_foresaw_costs_only_its_own_task(
    later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(configs: Configs) -> NDArray[np.bool_]:
        raise KeyError("vector")

    def make_space(task: Task, target: Target) -> DesignSpace:
        if task.key != "broken":
            return wide(task.key, task.flop)
        if later:
            return ToySpace(plain(3), raising, task=task)
        raise ZeroDivisionError("integer modulo by zero")

    monkeypatch.delenv("TILEWRIGHT_DEBUG", raising=False)
    tuner, _ = network({"a": bowl, "broken": bowl}, Budget(trials=20), make_space=make_space)
    tuner.run()
    assert tuner.trials == 20
    problem = tuner.report().tasks[1].problem
    assert ("'vector' is missing" if later else "integer modulo by zero") in problem
    assert "broken" in problem


def test_an_interrupt_ends_the_tuning_and_keeps_the_results() -> None:
    tuner, _ = network({"a": bowl, "b": bowl}, Budget(trials=200), interrupt_after=30)
    tuner.run()
    assert tuner.interrupted
    assert tuner.trials == 30
    assert tuner.estimated_latency is not None
    assert tuner.report().interrupted is True


def test_a_second_run_starts_from_the_first() -> None:
    store = MemoryStore()
    first, _ = network({"a": bowl, "b": bowl}, Budget(trials=100), store=store)
    first.run()
    second, runner = network({"a": bowl, "b": bowl}, Budget(trials=16), store=store, seed=1)
    second.prepare()
    assert second.estimated_latency == first.estimated_latency
    second.run(finalists=0)
    assert second.trials == len(runner.log) == 16
    assert second.estimated_latency is not None
    assert first.estimated_latency is not None
    assert second.estimated_latency <= first.estimated_latency
    assert second.curve[0] == (0.0, first.estimated_latency)


def test_equal_seeds_do_the_same() -> None:
    logs = []
    for _ in range(2):
        tuner, runner = network({"a": bowl, "b": flat, "c": failing}, Budget(trials=150), seed=3)
        tuner.run()
        logs.append((runner.log, tuner.report()))
    assert logs[0] == logs[1]


def test_the_latency_is_weighted_and_its_curve_falls() -> None:
    uses = [Use(task("a"), 3), Use(task("b"), 2)]
    watching = Watching()
    tuner, _ = network({"a": bowl, "b": flat}, Budget(trials=150), uses=uses, progress=watching)
    tuner.run()
    expected = 3 * tuner.tuners["a"].best_seconds + 2 * tuner.tuners["b"].best_seconds
    assert tuner.estimated_latency == pytest.approx(expected)
    assert tuner.curve[-1][1] == tuner.estimated_latency
    latencies = [latency for _, latency in tuner.curve]
    assert latencies == sorted(latencies, reverse=True)
    assert watching.states[0].estimated_latency is None
    last = watching.states[-1]
    assert (last.trials, last.tasks, last.tasks_done, last.remaining) == (150, 2, 2, math.inf)


def test_the_race_goes_to_the_heaviest_tasks_within_its_share() -> None:
    store = MemoryStore()
    for key, seconds in (("light", 1e-3), ("heavy", 1.0)):
        rows = [((i, 0, 0, 0, 0, 0, 0), seconds * (1 + 0.01 * i)) for i in range(9)]
        store.add([Measurement(key, TARGET.key, "toy/1", row, Outcome.OK, (s,)) for row, s in rows])
    slow: dict[str, Latency] = {"light": lambda c: 1e-3 + 0 * bowl(c), "heavy": lambda c: 1 + 0 * bowl(c)}
    tuner, runner = network(slow, Budget(seconds=100.0), store=store)
    tuner.prepare()
    runner.clock.now = 96.0
    tuner.run(finalist_seconds=5.0)
    assert tuner.trials == 0
    assert [key for key, _, _ in runner.log] == ["heavy"] * 3 + ["light"]
    assert tuner.finalists("heavy", 2).shape == (2, 7)


def test_a_task_that_promises_nothing_has_no_more_rounds() -> None:
    store, clock = MemoryStore(), Clock()
    runner = Replay(store, {"a": bowl, "b": bowl}, clock)
    context = TuningContext(TARGET, runner, store, Budget(trials=400).start(clock=clock), np.random.default_rng(0))
    tuner = NetworkTuner(
        [Use(task("a")), Use(task("b"))],
        context,
        method=replace(quick(), sharing=None),
        scheduling=Scheduling(rule=lambda live, tasks, size: [0.0] * len(live)),
        make_space=space_of,
    )
    tuner.run(finalists=0)
    assert tuner.trials < 40
    assert all(report.done for report in tuner.report().tasks)


def test_no_tasks_at_all() -> None:
    tuner, _ = network({}, Budget(trials=10))
    tuner.run()
    assert tuner.trials == 0
    assert tuner.estimated_latency is None
