"""Tasks that borrow from each other and from earlier networks, on families of toy spaces with known latencies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import TableSpace, ToySpace
from tests.tuning.replay import TARGET, Clock, Latency, Replay, Use
from tilewright.errors import SpaceError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.methods.autotvm import quick
from tilewright.methods.default import bayesian
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query
from tilewright.share.cluster import clique_clusters
from tilewright.share.policy import Sharing
from tilewright.share.similarity import overlap
from tilewright.share.transfer import map_configs
from tilewright.space.configs import choices_of, sample
from tilewright.space.knob import ChoiceKnob, OrderKnob, SplitKnob
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.budget import Budget
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.sharing import Credit

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


EVERY = sample(TableSpace(), np.random.default_rng(0), 1 << 12)
ALIKE: dict[str, Latency] = {f"m{rows}": seconds_of(rows) for rows in ROWS}


def test_alike_tasks_reach_with_200_trials_what_tuning_each_reaches_with_480() -> None:
    lost = []
    for seed in range(5):
        alone, _ = tune(ALIKE, Budget(trials=480), None, seed=seed)
        shared, runner = tune(ALIKE, Budget(trials=200), ALL, seed=seed)
        assert shared.trials == len(runner.log) == 200
        assert alone.estimated_latency is not None
        assert shared.estimated_latency is not None
        lost.append(shared.estimated_latency / alone.estimated_latency)
    assert np.exp(np.log(lost).mean()) <= 1 / 0.98


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


def test_dependents_come_last_and_try_the_default_and_what_is_best_so_far() -> None:
    tuner, runner = tune(ALIKE, Budget(trials=200), replace(ALL, measure=lambda a, b: 1.0))
    shared = tuner.report()["sharing"]
    (cluster,) = shared["clusters"]
    assert sorted(cluster["members"]) == sorted(ALIKE)
    order = list(dict.fromkeys(key for key, _, _ in runner.log))
    assert order[0] == cluster["representative"]
    assert order[1:] == [f"m{rows}" for rows in sorted(ROWS, reverse=True) if f"m{rows}" != order[0]]
    assert [key for key, _, _ in runner.log][:4] == [order[0]] * 4
    for dependent in order[1:]:
        default, *borrowed = first(runner, dependent, 4)
        assert default == (0, 0, 0, 0, 0)
        assert len(set(borrowed)) == 3
    assert {loan["from"] for loan in shared["borrowed"]} == {order[0]}
    assert {loan["task"] for loan in shared["borrowed"]} == set(order[1:])


def test_with_little_credit_one_config_is_borrowed_beside_the_own_proposals() -> None:
    _, runner = tune(ALIKE, Budget(trials=60), replace(ALL, measure=lambda a, b: 0.5, earlier=0))
    order = list(dict.fromkeys(key for key, _, _ in runner.log))
    lead, second = (space_of(SPACES[key].task, TARGET) for key in order[:2])
    best = min((seconds, config) for key, config, _ in runner.log[:4] for seconds in [latency_of(key, config)])[1]
    (lent,) = map_configs(lead.knobs, np.asarray([best], dtype=np.int32), second)
    assert first(runner, order[1], 4)[1] == tuple(lent.tolist())
    assert len(set(first(runner, order[1], 4))) == 4


def latency_of(key: str, config: tuple[int, ...]) -> float:
    return float(ALIKE[key](np.asarray([config], dtype=np.int32))[0])


def lots(tuner: NetworkTuner) -> int:
    return sum(loan["configs"] for loan in tuner.report()["sharing"]["borrowed"])


def test_what_loses_is_borrowed_no_more_and_what_wins_is() -> None:
    wishes = [(1.0, 1.0, 2.0, 8.0), (2.0, 16.0, 1.0, 1.0), (16.0, 1.0, 96.0, 8.0), (4.0, 24.0, 3.0, 1.0)]
    rows = ROWS[:4]
    unlike: dict[str, Latency] = {f"m{r}": seconds_of(r, wish) for r, wish in zip(rows, wishes, strict=True)}
    alike: dict[str, Latency] = {f"m{r}": ALIKE[f"m{r}"] for r in rows}
    sharing = replace(ALL, measure=lambda a, b: 0.6)
    lost, won = (tune(latencies, Budget(trials=300), sharing)[0] for latencies in (unlike, alike))
    shares = [tuner.report()["sharing"] for tuner in (lost, won)]
    assert shares[0]["won"] / shares[0]["compared"] < 0.2
    assert shares[1]["won"] / shares[1]["compared"] > 0.4
    assert 2 * lots(lost) < lots(won)


@pytest.mark.parametrize(
    ("borrowed", "own", "won"), [(1.0, 2.0, 1.0), (2.0, 1.0, 0.0), (1.0, 1.005, 0.5), (np.inf, np.inf, 0.5)]
)
def test_credit_is_the_share_of_comparisons_that_were_won(borrowed: float, own: float, won: float) -> None:
    credit = Credit()
    assert credit.of(0.7) == pytest.approx(0.7)  # before there are any, the similarity
    for _ in range(96):
        credit.note(borrowed, own)
    assert credit.of(0.7) == pytest.approx((4 * 0.7 + 96 * won) / 100)


def test_a_borrowed_config_has_the_same_inner_factors() -> None:
    tuner, _ = tune(ALIKE, Budget(trials=120), ALL)
    lead = tuner.tuners[tuner.report()["sharing"]["clusters"][0]["representative"]]
    assert lead.best_config is not None
    wanted = [c[1:] if i < 2 else c for i, c in enumerate(choices_of(lead.space, lead.best_config))]
    same = 0
    for loan in tuner.report()["sharing"]["borrowed"]:
        own = tuner.tuners[loan["task"]]
        assert own.best_config is not None
        same += [c[1:] if i < 2 else c for i, c in enumerate(choices_of(own.space, own.best_config))] == wanted
    assert same >= 3


def test_nothing_is_shared_below_the_threshold() -> None:
    alone, one = tune(ALIKE, Budget(trials=100), None, seed=5)
    apart, other = tune(ALIKE, Budget(trials=100), replace(ALL, threshold=1.0), seed=5)
    assert "sharing" not in alone.report()
    assert apart.report()["sharing"]["borrowed"] == []
    assert one.log == other.log


def test_equal_seeds_share_alike() -> None:
    logs = [tune(ALIKE, Budget(trials=90), Sharing(threshold=0.0), seed=2) for _ in range(2)]
    assert logs[0][1].log == logs[1][1].log
    assert logs[0][0].report() == logs[1][0].report()


def earlier_network(target: Target = TARGET) -> MemoryStore:
    """A store with the tuned task of 384 rows."""
    store = MemoryStore()
    tuned, _ = tune({"m384": ALIKE["m384"]}, Budget(trials=150), None, store=store)
    assert tuned.tuners["m384"].best_seconds == pytest.approx(best_of(384, ALIKE["m384"]), rel=0.02)
    if target is not TARGET:
        moved = MemoryStore()
        moved.describe(SPACES["m384"].task)
        moved.add([replace(m, target=target.key) for m in store.scan(Query())])
        return moved
    return store


def test_an_earlier_network_saves_nearly_all_of_the_trials() -> None:
    two = {key: ALIKE[key] for key in ("m640", "m192")}
    tuner, _ = tune(two, Budget(trials=12), ALL, store=earlier_network())
    assert {loan["from"] for loan in tuner.report()["sharing"]["borrowed"]} == {"m384"}
    assert all(loan["earlier"] and loan["best"] for loan in tuner.report()["sharing"]["borrowed"])
    for rows in (640, 192):
        assert tuner.tuners[f"m{rows}"].best_seconds <= 1.03 * best_of(rows, ALIKE[f"m{rows}"])


@pytest.mark.parametrize("own", ["m192", "m384"], ids=["similar", "the same"])
def test_what_was_timed_with_other_caches_is_lent_and_not_taken_for_known(own: str) -> None:
    tuner, _ = tune({own: ALIKE[own]}, Budget(trials=5), ALL, store=earlier_network(replace(TARGET, caches="streamed")))
    assert tuner.tuners[own].recorded == 0
    (loan,) = tuner.report()["sharing"]["borrowed"]
    assert (loan["from"], loan["earlier"], loan["best"]) == ("m384", True, True)
    assert tuner.tuners[own].best_seconds <= 1.03 * best_of(int(own[1:]), ALIKE[own])


def test_earlier_tasks_like_the_heaviest_are_asked_first() -> None:
    store = earlier_network()
    small = Task("small", "small", "auto", SPACES["m48"].task.flop, "rows 48")
    store.describe(small)
    tuned, _ = tune({"m48": ALIKE["m48"]}, Budget(trials=20), None)
    store.add([replace(m, task="small") for m in tuned._store.scan(Query("m48"))])
    two = {key: ALIKE[key] for key in ("m48", "m640")}
    tuner, _ = tune(two, Budget(trials=8), replace(ALL, earlier=1), store=store)
    assert {loan["from"] for loan in tuner.report()["sharing"]["borrowed"] if loan["earlier"]} == {"m384"}


@pytest.mark.parametrize("sharing", [replace(ALL, earlier=0), replace(ALL, seconds=0.0)], ids=["none", "no time"])
def test_earlier_networks_can_be_left_alone(sharing: Sharing) -> None:
    two = {key: ALIKE[key] for key in ("m640", "m80")}
    _, one = tune(two, Budget(trials=40), ALL)
    left, other = tune(two, Budget(trials=40), sharing, store=earlier_network())
    assert one.log == other.log
    assert not any(loan["earlier"] for loan in left.report()["sharing"]["borrowed"])


def test_records_of_another_machine_change_nothing() -> None:
    two = {key: ALIKE[key] for key in ("m640", "m80")}
    _, one = tune(two, Budget(trials=40), ALL)
    _, other = tune(two, Budget(trials=40), ALL, store=earlier_network(replace(TARGET, mcpu="another")))
    assert one.log == other.log


def test_an_earlier_task_that_no_space_serves_or_that_has_too_little_is_passed_over() -> None:
    store = MemoryStore()
    space = SPACES["m384"]
    for number, ir in enumerate(("broken", "rows 384", "rows 192")):
        task = Task(f"earlier{number}", "earlier", "auto", 1e6, ir)
        store.describe(task)
        rows = sample(space, np.random.default_rng(0), 30 if ir != "rows 192" else 3)
        records = [
            Measurement(task.key, TARGET.key, space.template, tuple(row), Outcome.RUN_CRASHED) for row in rows.tolist()
        ]
        if ir == "rows 192":
            records = [replace(m, outcome=Outcome.OK, repeats=(1e-9,)) for m in records]
        store.add(records)
    two = {key: ALIKE[key] for key in ("m640", "m80")}
    _, one = tune(two, Budget(trials=40), ALL)
    _, other = tune(two, Budget(trials=40), ALL, store=store)
    assert one.log == other.log


class Named(TableSpace):
    """The table space as that of any task."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        object.__setattr__(self, "task", task)


def of_table(number: int) -> Task:
    return Task(f"table{number}", f"table {number}", "toy", 1e6 * (1 + number), f"table {number}")


@pytest.mark.parametrize("known", [False, True])
def test_earlier_networks_teach_the_cost_model(known: bool) -> None:
    store = MemoryStore()
    for number in range(8) if known else ():
        space = Named(of_table(number))
        store.describe(space.task)
        rows = sample(space, np.random.default_rng(number), 16)
        pairs = zip(rows.tolist(), space.seconds(rows).tolist(), strict=True)
        store.add(
            [Measurement(space.task.key, TARGET.key, space.template, tuple(c), Outcome.OK, (s,)) for c, s in pairs]
        )
    uses = [Use(of_table(number)) for number in (100, 101)]
    latencies: dict[str, Latency] = {use.task.key: TableSpace().seconds for use in uses}
    runner = Replay(store, latencies, Clock())
    tuner = NetworkTuner(
        uses,
        TARGET,
        runner,
        store,
        Budget(trials=8).start(clock=runner.clock),
        np.random.default_rng(0),
        method=bayesian(),
        make_space=lambda task, target: Named(task),
        sharing=Sharing(threshold=1.0),
    )
    tuner.run(race=0)
    models = tuner.report()["sharing"]["models"]
    assert models["toy-matmul/1"]["believed"] is known
    # The default of the first task is followed by what is thought best of all.
    proposed = np.asarray([config for _, config, _ in runner.log[1:4]], dtype=np.int32)
    assert (TableSpace().seconds(proposed).max() < np.quantile(TableSpace().seconds(EVERY), 0.2)) is np.bool_(known)


def test_a_second_run_goes_on_from_the_first() -> None:
    store = MemoryStore()
    before, _ = tune(ALIKE, Budget(trials=120), ALL, store=store)
    after, runner = tune(ALIKE, Budget(trials=60), ALL, store=store, seed=1)
    assert len(runner.log) == 60
    assert before.estimated_latency is not None
    assert after.estimated_latency is not None
    assert after.estimated_latency <= before.estimated_latency


def test_a_dead_representative_takes_nobody_with_it() -> None:
    lead = tune(ALIKE, Budget(trials=10), ALL)[0].report()["sharing"]["clusters"][0]["representative"]
    latencies: dict[str, Latency] = {**ALIKE, lead: lambda configs: np.full(len(configs), np.nan)}
    tuner, runner = tune(latencies, Budget(trials=400), ALL)
    assert tuner.report()["tasks_without_success"] == 1
    assert trials(runner)[lead] <= 3 * 16 + 8
    assert tuner.trials == 400


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("budget", [Budget(trials=1), Budget(trials=7), Budget(seconds=9.0)], ids=str)
def test_small_networks_and_small_budgets(number: int, budget: Budget) -> None:
    tuner, runner = tune(dict(list(ALIKE.items())[:number]), budget, ALL)
    assert tuner.trials == len(runner.log) == (0 if number == 0 else budget.trials or 9)


def test_published_sharing_is_of_overlaps_and_cliques() -> None:
    published = Sharing.published()
    assert (published.measure, published.cluster, published.threshold) == (overlap, clique_clusters, 0.01)
    tuner, _ = tune(ALIKE, Budget(trials=60), published)
    assert tuner.trials == 60
    assert lots(tuner) >= 3  # trusted in advance, however small the overlap


def test_a_budget_that_is_spent_compares_no_tasks() -> None:
    """Comparing hundreds of tasks takes seconds, and nothing is measured after it."""
    late = iter(range(0, 10**6, 10))
    tuner = NetworkTuner(
        [Use(SPACES[key].task) for key in ALIKE],
        TARGET,
        Replay(MemoryStore(), ALIKE, Clock()),
        MemoryStore(),
        Budget(5.0).start(clock=lambda: float(next(late))),
        np.random.default_rng(0),
        method=quick(),
        make_space=space_of,
        sharing=ALL,
    )
    tuner.prepare()
    assert "sharing" not in tuner.report()
