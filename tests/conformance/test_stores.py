"""One suite for every store. To have yours tested, add its factory to ``STORES``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.records import strategies as some
from tests.records.server import Server, in_memory, missing
from tilewright.errors import RecordsError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records import open_store
from tilewright.records.fallback import FallbackStore
from tilewright.records.memory import MemoryStore
from tilewright.records.sql import SQLStore
from tilewright.records.store import Query, Store, Summary
from tilewright.task import Task

Listed = MemoryStore | SQLStore
AnyStore = Listed | FallbackStore
#: Makes a store in an empty directory or, where it needs one, on a server.
Factory = Callable[[Path, Callable[[], Server]], AnyStore]
#: Stores that the command line opens: they have a ``summary`` too.
LISTED: dict[str, Callable[[Path, Callable[[], Server]], Listed]] = {
    "memory": lambda directory, server: MemoryStore(),
    "sqlite": lambda directory, server: open_store(directory / "records.db"),
    "postgresql": lambda directory, server: open_store(server().empty()),
}
STORES: dict[str, Factory] = {
    **LISTED,
    "fallback": lambda directory, server: FallbackStore(open_store(directory / "fallback.db")),
}
EVERYTHING = Query()
GOOD = Measurement("t", "cpu", "contraction/1", (1, 2, 3), Outcome.OK, (0.002, 0.003), "", 1.7e9, 0.5)
TASK = Task("t", "conv2d 3x3", "contraction", 1e9, "{}")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStore]:
    with STORES[request.param](tmp_path, lambda: request.getfixturevalue("postgresql")) as store:
        yield store


@pytest.fixture(params=LISTED)
def listed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listed]:
    with LISTED[request.param](tmp_path, lambda: request.getfixturevalue("postgresql")) as store:
        yield store


def timed(config: int, *seconds: float) -> Measurement:
    return replace(GOOD, config=(config,), repeats=seconds)


def changed(fields: Mapping[str, Any]) -> Measurement:
    return replace(GOOD, **fields)


def test_is_a_store(store: AnyStore) -> None:
    contract: Store = store  # mypy holds the signatures against the contract
    assert list(contract.scan(EVERYTHING)) == []
    assert contract.best("t", "cpu", "contraction/1", 10) == []


def test_order_of_adding(store: AnyStore) -> None:
    first, second, third = timed(1, 3.0), timed(2, 1.0), timed(1, 3.0)
    store.add([first, second])
    store.add([])
    store.add([third])
    assert list(store.scan(EVERYTHING)) == [first, second, third]


@pytest.mark.parametrize("field", ["task", "target", "template"])
def test_scan_picks(store: AnyStore, field: str) -> None:
    other = changed({field: "other"})
    store.add([GOOD, other, GOOD])
    assert list(store.scan(Query(**{field: "other"}))) == [other]
    assert list(store.scan(Query(**{field: getattr(GOOD, field)}))) == [GOOD, GOOD]
    assert list(store.scan(Query(**{field: "third"}))) == []
    assert store.best("t", "cpu", "contraction/1", 10) == [GOOD]


def test_best_is_fastest_first(store: AnyStore) -> None:
    slow, fast, middle = timed(1, 3.0), timed(2, 1.0), timed(3, 2.0)
    store.add([slow, fast, middle])
    assert store.best("t", "cpu", "contraction/1", 2) == [fast, middle]
    assert store.best("t", "cpu", "contraction/1", 10) == [fast, middle, slow]
    assert store.best("t", "cpu", "contraction/1", 0) == []


def test_best_goes_by_the_robust_latency(store: AnyStore) -> None:
    lucky = timed(1, 0.5, 9.0, 9.0, 9.0, 9.0, 9.0)
    steady = timed(2, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0)
    store.add([lucky, steady])
    assert store.best("t", "cpu", "contraction/1", 1) == [steady]


def test_best_gives_each_config_once(store: AnyStore) -> None:
    store.add([timed(1, 3.0), timed(1, 1.0), timed(1, 1.0), timed(2, 2.0)])
    assert store.best("t", "cpu", "contraction/1", 2) == [timed(1, 1.0), timed(2, 2.0)]


def test_the_older_of_equals_is_better(store: AnyStore) -> None:
    store.add([timed(3, 1.0), timed(1, 1.0), timed(2, 1.0)])
    assert [m.config for m in store.best("t", "cpu", "contraction/1", 3)] == [(3,), (1,), (2,)]


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_failures_are_kept_and_never_best(store: AnyStore, outcome: Outcome) -> None:
    failure = replace(GOOD, outcome=outcome, repeats=(), message="signal 11\nat 'x'; line two")
    wrong_but_timed = replace(failure, repeats=(1e-9,))
    store.add([failure, GOOD, wrong_but_timed])
    assert list(store.scan(EVERYTHING)) == [failure, GOOD, wrong_but_timed]
    assert store.best("t", "cpu", "contraction/1", 10) == [GOOD]


def test_failures_are_counted(listed: Listed) -> None:
    assert listed.summary() == []
    failure = replace(GOOD, outcome=Outcome.WRONG_RESULT, repeats=(1e-9,))
    listed.add([failure, GOOD, failure])
    assert [(entry.count, entry.ok) for entry in listed.summary()] == [(3, 1)]


def test_numpy_numbers_come_back_as_plain_ones(store: AnyStore) -> None:
    row = np.array([1, 2, 3], dtype=np.int32)
    store.add([replace(GOOD, config=tuple(row), repeats=tuple(np.array([0.25, 0.5])), time=float(np.float32(5)))])
    (found,) = store.scan(EVERYTHING)
    assert found == replace(GOOD, repeats=(0.25, 0.5), time=5.0)
    assert [type(index) for index in found.config] == [int] * 3
    assert [type(seconds) for seconds in found.repeats] == [float] * 2


def test_unstorable_characters_of_a_message(store: AnyStore) -> None:
    store.add([replace(GOOD, message="a\0b\udc80c\U0001f600")])
    (found,) = store.scan(EVERYTHING)
    assert found.message == "a\ufffdb\ufffdc\U0001f600"


@pytest.mark.parametrize(
    "change",
    [
        {"repeats": (float("nan"),)}, {"repeats": (float("inf"),)}, {"repeats": (-1.0,)}, {"repeats": (None,)},
        {"repeats": (1e10,)}, {"repeats": ()}, {"config": (-1,)}, {"config": (2**31,)}, {"config": (1.5,)},
        {"config": ("1",)}, {"config": None}, {"outcome": "ok"}, {"task": ""}, {"target": None}, {"template": "a\0b"},
        {"task": "\ud800"}, {"time": float("nan")}, {"time": "now"}, {"elapsed": -1.0}, {"elapsed": float("inf")},
    ],
    ids=str,
)  # fmt: skip
def test_the_impossible_is_refused_and_nothing_is_kept(store: AnyStore, change: dict[str, object]) -> None:
    bad = changed(change)
    with pytest.raises(RecordsError):
        store.add([GOOD, bad])
    assert list(store.scan(EVERYTHING)) == []


def test_summary(listed: Listed) -> None:
    failure = replace(GOOD, outcome=Outcome.RUN_CRASHED, repeats=(), time=1.8e9)
    listed.add([GOOD, timed(1, 0.001), failure, replace(failure, target="gpu")])
    assert listed.summary() == [
        Summary("t", "cpu", "contraction/1", "", None, 3, 2, 0.001, 1.8e9),
        Summary("t", "gpu", "contraction/1", "", None, 1, 0, None, 1.8e9),
    ]


def test_describe(listed: Listed) -> None:
    listed.describe(TASK)
    assert listed.summary() == []
    listed.add([GOOD, replace(GOOD, task="unknown")])
    assert [(s.name, s.flop) for s in listed.summary()] == [("conv2d 3x3", 1e9), ("", None)]
    listed.describe(replace(TASK, name="a better name", flop=2e9))
    assert [(s.name, s.flop) for s in listed.summary()] == [("a better name", 2e9), ("", None)]


def test_tasks_come_back_whole_and_in_order(store: AnyStore) -> None:
    assert store.tasks() == []
    large = replace(TASK, key="b", ir='{"nodes": [' + "1, " * 50_000 + "2]}")
    odd = replace(TASK, key="a", name="convolution Ω", ir="zlib:no, only a text that begins so")
    for task in (large, TASK, odd, replace(TASK, key="nameless", ir="")):
        store.describe(task)
    assert store.tasks() == [odd, large, TASK]


def test_an_ir_is_replaced_and_not_forgotten(store: AnyStore) -> None:
    store.describe(replace(TASK, ir=""))
    assert store.tasks() == []
    store.describe(TASK)
    store.describe(replace(TASK, name="a better name", ir=""))
    assert store.tasks() == [replace(TASK, name="a better name")]
    store.describe(replace(TASK, ir="[]"))
    assert store.tasks() == [replace(TASK, ir="[]")]


def test_adding_while_scanning(store: AnyStore) -> None:
    store.add([timed(index, 1.0) for index in range(50)])
    for seen, measurement in enumerate(store.scan(EVERYTHING)):
        assert measurement.config == (seen,)
        store.add([timed(100, 1.0)])
        if seen == 10:
            break
    assert len(list(store.scan(EVERYTHING))) == 61


def test_a_closed_store_refuses(store: AnyStore) -> None:
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: store.add([GOOD]),
        lambda: store.best("t", "cpu", "contraction/1", 1),
        lambda: store.scan(EVERYTHING),
        lambda: store.describe(TASK),
        store.tasks,
        getattr(store, "summary", store.tasks),
    ]
    for call in calls:
        with pytest.raises(RecordsError, match="closed"):
            call()


@settings(max_examples=50)
@given(added=st.lists(some.measurements(), max_size=8))
def test_round_trip(added: list[Measurement]) -> None:
    with tempfile.TemporaryDirectory(dir=in_memory()) as directory, open_store(Path(directory) / "records.db") as store:
        store.add(added)
        assert list(store.scan(EVERYTHING)) == added


class Flaky:
    """A store that refuses to be written while it is broken."""

    def __init__(self, store: SQLStore) -> None:
        self.store, self.broken = store, False
        self.best, self.scan, self.tasks, self.close = store.best, store.scan, store.tasks, store.close

    def add(self, measurements: Sequence[Measurement]) -> None:
        self._refuse()
        self.store.add(measurements)

    def describe(self, task: Task) -> None:
        self._refuse()
        self.store.describe(task)

    def _refuse(self) -> None:
        if self.broken:
            raise RecordsError("the disk is full; make room")


class Agreement(RuleBasedStateMachine):
    """All stores, told the same, say the same. The first is in memory and the model for the others.

    One stands before a store that is broken now and then; what it keeps meanwhile is no less to be found.
    """

    def __init__(self, server: Server | None) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(dir=in_memory())
        folder = Path(self.directory.name)
        self.where: list[str | Path] = [folder / "records.db", *([server.empty()] if server else [])]
        self.model, self.opened = MemoryStore(), [open_store(where) for where in self.where]
        self.flaky = Flaky(open_store(folder / "flaky.db"))
        self.now = 0.0
        self.fallback = FallbackStore(self.flaky, clock=lambda: self.now)

    @property
    def stores(self) -> list[AnyStore]:
        return [self.model, *self.opened, self.fallback]

    @rule(added=st.lists(some.measurements(), max_size=4))
    def add(self, added: list[Measurement]) -> None:
        for store in self.stores:
            store.add(added)

    @rule(measurement=some.measurements(), latencies=st.lists(some.seconds, min_size=1, max_size=30))
    def add_again(self, measurement: Measurement, latencies: list[float]) -> None:
        """A config that is measured again and again, as winners are."""
        repeats = [replace(measurement, outcome=Outcome.OK, repeats=(latency,)) for latency in latencies]
        for store in self.stores:
            store.add([*repeats, measurement, measurement])

    @rule(good=some.measurements())
    def refuse(self, good: Measurement) -> None:
        for store in self.stores:
            with pytest.raises(RecordsError):
                store.add([good, replace(good, elapsed=-1.0)])

    @rule(task=some.tasks())
    def describe(self, task: Task) -> None:
        for store in self.stores:
            store.describe(task)

    @rule()
    def reopen(self) -> None:
        for store in self.opened:
            store.close()
        self.opened = [open_store(where) for where in self.where]

    @rule(added=st.lists(some.measurements(), max_size=2))
    def add_through_another(self, added: list[Measurement]) -> None:
        """A second command on the same records."""
        for where in self.where:
            with open_store(where) as another:
                another.add(added)
        self.model.add(added)
        self.fallback.add(added)

    @rule(broken=st.booleans(), seconds=st.sampled_from([0.0, 5.0, 100.0]))
    def weather(self, broken: bool, seconds: float) -> None:
        self.flaky.broken = broken
        self.now += seconds

    @rule()
    def settle(self) -> None:
        self.now += 100.0  # what has just been given up is tried again after a pause
        self.fallback.settle()
        assert self.flaky.broken or self.fallback.kept == 0

    @rule(key=st.tuples(some.keys, some.targets, some.templates), count=st.integers(-1, 5))
    def best(self, key: tuple[str, str, str], count: int) -> None:
        model, *others = [store.best(*key, count) for store in self.stores]
        assert all(other == model for other in others)
        assert len({measurement.config for measurement in model}) == len(model)

    @rule(query=some.queries)
    def scan(self, query: Query) -> None:
        model, *others = [list(store.scan(query)) for store in self.stores]
        assert all(other == model for other in others)

    @rule(query=some.queries, seen=st.integers(0, 3))
    def scan_a_little(self, query: Query, seen: int) -> None:
        model, *others = [list(islice(store.scan(query), seen)) for store in self.stores]
        assert all(other == model for other in others)

    @rule()
    def summaries_agree(self) -> None:
        assert all(store.summary() == self.model.summary() for store in self.opened)

    @rule()
    def tasks_agree(self) -> None:
        model, *others = [store.tasks() for store in self.stores]
        assert all(other == model for other in others)

    def teardown(self) -> None:
        self.summaries_agree()
        self.tasks_agree()
        self.scan(EVERYTHING)
        everything = list(self.model.scan(EVERYTHING))
        self.flaky.broken = False
        self.now += 100.0
        for store in self.stores:
            store.close()
        with open_store(Path(self.directory.name) / "flaky.db") as store:
            assert list(store.scan(EVERYTHING)) == everything
        self.directory.cleanup()


def test_all_stores_agree(request: pytest.FixtureRequest) -> None:
    # Without a server the others still have to.
    server = request.getfixturevalue("postgresql") if missing() is None else None
    machine: Any = partial(Agreement, server)
    examples = settings().max_examples // 5
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=20))
