"""Every pair of stores can be merged, whatever keeps the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from tests.conformance.test_stores import EVERYTHING, GOOD, LISTED, STORES, TASK, AnyStore, timed
from tilewright.errors import RecordsError
from tilewright.measure.outcome import Outcome
from tilewright.records.merge import merge
from tilewright.records.store import Group, Query

FAILED = replace(GOOD, target="other", outcome=Outcome.RUN_CRASHED, repeats=(), message="signal 11\n\u03a9", time=-0.0)
RECORDS = [GOOD, timed(1, 0.5), FAILED, timed(2, 0.25), replace(GOOD, time=1.8e9)]


@pytest.fixture(params=product(STORES, STORES), ids="-to-".join)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[AnyStore, AnyStore]]:
    with ExitStack() as opened:
        stores: list[AnyStore] = []
        for place, name in zip(("source", "destination"), request.param, strict=True):
            (tmp_path / place).mkdir()
            made = STORES[name](tmp_path / place, lambda: request.getfixturevalue("postgresql"))
            opened.enter_context(made)
            stores.append(made)
        yield stores[0], stores[1]


def test_merging(pair: tuple[AnyStore, AnyStore]) -> None:
    source, destination = pair
    source.add(RECORDS)
    source.describe(replace(TASK, ir=""))
    destination.add([RECORDS[1]])
    merged = merge(source, destination)
    assert (merged.read, merged.new, merged.known, merged.refused) == (5, 4, 1, {})
    found = list(destination.scan(EVERYTHING))
    assert Counter(found) == Counter(RECORDS)
    key = ("t", "cpu", "contraction/1")
    assert destination.best(*key, 10) == source.best(*key, 10)
    again = merge(source, destination)
    assert (again.read, again.new, again.known) == (5, 0, 5)
    back = merge(destination, source, targets={"other"})
    assert (back.read, back.new, back.known, back.left_out) == (1, 0, 1, 4)
    assert list(destination.scan(EVERYTHING)) == found
    with pytest.raises(RecordsError, match="into another store"):
        merge(source, source)


@pytest.mark.parametrize("name", LISTED)
def test_groups_and_tasks(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    with LISTED[name](tmp_path, lambda: request.getfixturevalue("postgresql")) as store:
        assert store.groups() == []
        store.add(RECORDS)
        unknown = replace(TASK, key="u", ir="")
        for task in (TASK, unknown):
            store.describe(task)
        groups = [Group(Query("t", "cpu", "contraction/1"), 4), Group(Query("t", "other", "contraction/1"), 1)]
        assert sorted(store.groups(), key=repr) == groups
        assert list(store.read(Query(target="cpu"))) == list(store.scan(Query(target="cpu")))
        assert list(store.read(Query(task="\0"))) == []
        assert sorted(store.read_tasks(), key=repr) == sorted([TASK, unknown], key=repr)
        assert store.identity() == store.identity()
        (tmp_path / "other").mkdir()
        with LISTED[name](tmp_path / "other", lambda: request.getfixturevalue("postgresql")) as other:
            assert other.identity() != store.identity()
        store.close()
        calls: list[Callable[[], object]] = [
            store.groups,
            lambda: list(store.read(EVERYTHING)),
            lambda: list(store.read_tasks()),
        ]
        for call in calls:
            with pytest.raises(RecordsError, match="closed"):
                call()
