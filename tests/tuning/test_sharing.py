"""Tasks that borrow from each other, on families of toy spaces with known latencies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import TableSpace, ToySpace
from tests.tuning.replay import TARGET, Clock, Latency, Replay, Use
from tilewright.errors import SpaceError
from tilewright.methods.autotvm import quick
from tilewright.records.memory import MemoryStore
from tilewright.share.cluster import clique_clusters
from tilewright.share.policy import Sharing
from tilewright.share.similarity import overlap
from tilewright.share.transfer import map_configs
from tilewright.space.configs import sample
from tilewright.space.knob import ChoiceKnob, OrderKnob, SplitKnob
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.budget import Budget
from tilewright.tuning.context import TuningContext
from tilewright.tuning.report import SharingReport
from tilewright.tuning.scheduler import NetworkTuner

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
    context = TuningContext(TARGET, runner, store, budget.start(clock=clock), np.random.default_rng(seed))
    tuner = NetworkTuner(uses, context, method=replace(quick(), sharing=sharing), make_space=space_of)
    tuner.run(finalists=0)
    return tuner, runner


def trials(runner: Replay) -> Counter[str]:
    return Counter(key for key, _, _ in runner.log)


EVERY = sample(TableSpace(), np.random.default_rng(0), 1 << 12)
ALIKE: dict[str, Latency] = {f"m{rows}": seconds_of(rows) for rows in ROWS}


def test_alike_tasks_that_share_are_faster_after_as_many_trials() -> None:
    gained = []
    for seed in range(5):
        alone, _ = tune(ALIKE, Budget(trials=200), None, seed=seed)
        shared, runner = tune(ALIKE, Budget(trials=200), ALL, seed=seed)
        assert shared.trials == len(runner.log) == 200
        assert alone.estimated_latency is not None
        assert shared.estimated_latency is not None
        gained.append(shared.estimated_latency / alone.estimated_latency)
    assert np.exp(np.log(gained).mean()) <= 0.96


def test_where_similarity_misleads_little_is_lost() -> None:
    wishes = [(8.0, 4.0, 24.0, 4.0), (1.0, 1.0, 2.0, 8.0), (2.0, 16.0, 1.0, 1.0), (16.0, 1.0, 96.0, 8.0)]
    unlike: dict[str, Latency] = {
        f"m{rows}": seconds_of(rows, wish) for rows, wish in zip(ROWS[:4], wishes, strict=True)
    }
    lost = []
    for seed in range(5):
        alone, one = tune(unlike, Budget(trials=320), None, seed=seed)
        shared, other = tune(unlike, Budget(trials=320), ALL, seed=seed)
        assert alone.estimated_latency is not None
        assert shared.estimated_latency is not None
        lost.append(shared.estimated_latency / alone.estimated_latency)
        # Each is tuned about as much as it would be alone.
        assert all(trials(other)[key] >= 0.5 * count for key, count in trials(one).items())
    assert np.exp(np.log(lost).mean()) <= 1.03


def first(runner: Replay, key: str, count: int) -> list[tuple[int, ...]]:
    return [config for name, config, _ in runner.log if name == key][:count]


def test_dependents_come_last_and_try_the_default_and_the_best_two_so_far() -> None:
    tuner, runner = tune(ALIKE, Budget(trials=200), replace(ALL, measure=lambda a, b: 1.0))
    shared = shared_of(tuner)
    (cluster,) = shared.clusters
    assert sorted(cluster.members) == sorted(ALIKE)
    order = list(dict.fromkeys(key for key, _, _ in runner.log))
    assert order[0] == cluster.representative
    assert order[1:] == [f"m{rows}" for rows in sorted(ROWS, reverse=True) if f"m{rows}" != order[0]]
    assert [key for key, _, _ in runner.log][:4] == [order[0]] * 4
    ranked = sorted(
        (seconds, config) for config in first(runner, order[0], 4) for seconds in [latency_of(order[0], config)]
    )
    best = np.asarray([config for seconds, config in ranked[:2] if seconds <= 1.5 * ranked[0][0]], dtype=np.int32)
    for dependent in order[1:]:
        lead, own = (space_of(SPACES[key].task, TARGET) for key in (order[0], dependent))
        default, *others = first(runner, dependent, 4)
        assert default == (0, 0, 0, 0, 0)
        lent = [tuple(row) for row in map_configs(lead.knobs, best, own).tolist() if tuple(row) != default]
        assert others[: len(lent)] == lent
    assert {loan.lender for loan in shared.borrowed} == {order[0]}
    assert {loan.task for loan in shared.borrowed} == set(order[1:])


def shared_of(tuner: NetworkTuner) -> SharingReport:
    shared = tuner.report().sharing
    assert shared is not None
    return shared


def latency_of(key: str, config: tuple[int, ...]) -> float:
    return float(ALIKE[key](np.asarray([config], dtype=np.int32))[0])


def lots(tuner: NetworkTuner) -> int:
    return sum(loan.configs for loan in shared_of(tuner).borrowed)


def test_what_loses_is_borrowed_no_more_and_what_wins_is() -> None:
    wishes = [(1.0, 1.0, 2.0, 8.0), (2.0, 16.0, 1.0, 1.0), (16.0, 1.0, 96.0, 8.0), (4.0, 24.0, 3.0, 1.0)]
    rows = ROWS[:4]
    unlike: dict[str, Latency] = {f"m{r}": seconds_of(r, wish) for r, wish in zip(rows, wishes, strict=True)}
    alike: dict[str, Latency] = {f"m{r}": ALIKE[f"m{r}"] for r in rows}
    sharing = replace(ALL, measure=lambda a, b: 0.6)
    lost, won = (tune(latencies, Budget(trials=300), sharing)[0] for latencies in (unlike, alike))
    assert all(loan.lost for loan in shared_of(lost).borrowed)
    assert shared_of(won).won / shared_of(won).compared > 0.4
    assert lots(lost) < lots(won)


def test_a_dependent_runs_with_what_it_borrowed_where_that_is_its_best() -> None:
    tuner, _ = tune(ALIKE, Budget(trials=120), ALL)
    best = [loan for loan in shared_of(tuner).borrowed if loan.best]
    lead = tuner.tuners[shared_of(tuner).clusters[0].representative]
    assert best
    for loan in best:
        own = tuner.tuners[loan.task]
        ranked = map_configs(lead.space.knobs, lead.finalists(99, np.inf), own.space).tolist()
        assert own.best_config is not None
        assert own.best_config.tolist() in ranked


def test_nothing_is_shared_below_the_threshold() -> None:
    alone, one = tune(ALIKE, Budget(trials=100), None, seed=5)
    apart, other = tune(ALIKE, Budget(trials=100), replace(ALL, threshold=1.0), seed=5)
    assert alone.report().sharing is None
    assert shared_of(apart).borrowed == ()
    assert one.log == other.log


def test_equal_seeds_share_alike() -> None:
    logs = [tune(ALIKE, Budget(trials=90), Sharing(threshold=0.0), seed=2) for _ in range(2)]
    assert logs[0][1].log == logs[1][1].log
    assert logs[0][0].report() == logs[1][0].report()


def test_a_second_run_goes_on_from_the_first() -> None:
    store = MemoryStore()
    before, _ = tune(ALIKE, Budget(trials=120), ALL, store=store)
    after, runner = tune(ALIKE, Budget(trials=60), ALL, store=store, seed=1)
    assert len(runner.log) == 60
    assert before.estimated_latency is not None
    assert after.estimated_latency is not None
    assert after.estimated_latency <= before.estimated_latency


def test_a_dead_representative_takes_nobody_with_it() -> None:
    lead = shared_of(tune(ALIKE, Budget(trials=10), ALL)[0]).clusters[0].representative
    latencies: dict[str, Latency] = {**ALIKE, lead: lambda configs: np.full(len(configs), np.nan)}
    tuner, runner = tune(latencies, Budget(trials=400), ALL)
    assert tuner.report().tasks_without_success == 1
    assert trials(runner)[lead] <= 3 * 16 + 8
    assert tuner.trials == 400


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("budget", [Budget(trials=1), Budget(trials=7), Budget(seconds=9.0)], ids=str)
def test_small_networks_and_small_budgets(number: int, budget: Budget) -> None:
    tuner, runner = tune(dict(list(ALIKE.items())[:number]), budget, ALL)
    assert tuner.trials == len(runner.log) == (0 if number == 0 else budget.trials or 9)


def test_published_dependents_measure_their_default_and_the_best_ten_of_a_finished_representative() -> None:
    published = Sharing.published()
    assert (published.measure, published.cluster, published.threshold) == (overlap, clique_clusters, 0.01)
    tuner, runner = tune(ALIKE, Budget(trials=120), replace(published, threshold=0.0))
    shared = shared_of(tuner)
    leads = {cluster.representative for cluster in shared.clusters}
    followers = ALIKE.keys() - leads
    assert followers
    order = [key for key, _, _ in runner.log]
    assert max(order.index(key) for key in leads) < min(order.index(key) for key in followers)
    tried = {loan.task: loan.configs for loan in shared.borrowed}
    for key in followers:
        assert 1 <= tried[key] <= 10
        assert trials(runner)[key] <= 1 + tried[key]
    assert max(trials(runner)[key] for key in leads) >= 30


def test_published_dependents_are_tuned_where_nothing_that_they_borrow_works() -> None:
    lead = shared_of(tune(ALIKE, Budget(trials=10), Sharing.published())[0]).clusters[0].representative
    latencies: dict[str, Latency] = {**ALIKE, lead: lambda configs: np.full(len(configs), np.nan)}
    tuner, runner = tune(latencies, Budget(trials=400), replace(Sharing.published(), threshold=0.0))
    assert tuner.report().tasks_without_success == 1
    assert tuner.trials == 400
    assert min(trials(runner)[key] for key in ALIKE if key != lead) > 11


def test_a_budget_that_is_spent_compares_no_tasks() -> None:
    """Comparing hundreds of tasks takes seconds, and nothing is measured after it."""
    late = iter(range(0, 10**6, 10))
    store = MemoryStore()
    running = Budget(5.0).start(clock=lambda: float(next(late)))
    context = TuningContext(TARGET, Replay(store, ALIKE, Clock()), store, running, np.random.default_rng(0))
    uses = [Use(SPACES[key].task) for key in ALIKE]
    tuner = NetworkTuner(uses, context, method=replace(quick(), sharing=ALL), make_space=space_of)
    tuner.prepare()
    assert tuner.report().sharing is None
