"""What stores keep of tunings: every store the same, older ones as well, and rows that are none are passed over."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tilewright.errors import RecordsError, RecordsFormatError
from tilewright.measure.outcome import Measurement
from tilewright.records import open_store
from tilewright.records.fallback import FallbackStore
from tilewright.records.memory import MemoryStore
from tilewright.records.merge import merge
from tilewright.records.overview import Overview
from tilewright.records.runs import RunRecord, decode_run, encode_run
from tilewright.records.schema import runs
from tilewright.records.sql import SQLStore
from tilewright.records.store import Store

RUN = RunRecord(
    network="resnet",
    target="fast-2x-1",
    machine="A processor",
    method="default",
    time=1.7e9,
    budget_seconds=300.0,
    wall_seconds=301.0,
    trials=40,
    before_seconds=2e-3,
    after_seconds=1e-3,
    published="tuned",
    outcome="right",
    tasks=(("a" * 16, 2.0), ("b" * 16, 1.0)),
)


def read(store: SQLStore) -> tuple[list[RunRecord], dict[str, tuple[tuple[str, float], ...]]]:
    overview = Overview(store)
    overview.refresh()
    return overview.runs, dict(overview.networks)


def test_a_run_is_kept_and_found(tmp_path: Path) -> None:
    later = replace(RUN, time=1.8e9, budget_seconds=None, tasks=(("c", 1.0),))
    with open_store(tmp_path / "records.db") as store:
        store.add_run(RUN)
        overview = Overview(store)
        overview.refresh()
        store.add_run(later)
        overview.refresh()
        assert overview.runs == [replace(later, tasks=()), replace(RUN, tasks=())]
        assert overview.networks == {"resnet": later.tasks}
        assert decode_run(encode_run(RUN)) == RUN


def test_an_older_store_without_the_table_is_read_and_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    open_store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"DROP TABLE {runs.name}")
    connection.close()
    with open_store(path, writable=False) as store:
        assert read(store) == ([], {})
    with open_store(path) as store:
        store.add_run(RUN)
        assert read(store) == ([replace(RUN, tasks=())], {"resnet": RUN.tasks})


@pytest.mark.parametrize(
    ("field", "value"), [("network", "x" * 2000), ("target", b"\xff"), ("tasks", "{}"), ("tasks", '[["a"]]')]
)
def test_a_row_that_is_no_run_is_passed_over(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        store.add_run(RUN)
        store.add_run(replace(RUN, network="other"))
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE {runs.name} SET {field} = ? WHERE id = 1", (value,))
    connection.close()
    with open_store(path, writable=False) as store:
        found, networks = read(store)
    assert "other" in networks
    assert "resnet" not in networks
    assert "other" in [run.network for run in found]


def test_numbers_that_none_can_be_are_not_known() -> None:
    row = {**encode_run(RUN), "before_seconds": float("nan"), "after_seconds": -1.0, "trials": True, "time": "now"}
    found = decode_run(row)
    assert (found.before_seconds, found.after_seconds, found.trials, found.time) == (None, None, 0, 0.0)
    with pytest.raises(RecordsFormatError, match="tasks of a run"):
        decode_run({**row, "tasks": "[" * 100})


def test_hostile_texts_are_storable(tmp_path: Path) -> None:
    with open_store(tmp_path / "records.db") as store:
        store.add_run(replace(RUN, network="a\0\ud800" + "W" * 5000))
        assert read(store)[0][0].network.startswith("a\ufffd\ufffdWWW")


class Failing(MemoryStore):
    """A store that fails while it is told to."""

    fails = True

    def add_run(self, run: RunRecord) -> None:
        """Keep a run, or fail."""
        if self.fails:
            raise RecordsError("the disk is full")
        super().add_run(run)


def test_a_run_waits_for_a_store_that_fails() -> None:
    inner = Failing()
    store = FallbackStore(inner, clock=iter(range(0, 10_000, 100)).__next__)
    store.add_run(RUN)
    assert inner.runs == []
    inner.fails = False
    store.settle()
    assert inner.runs == [RUN]


class Plain:
    """A store of somebody's own, which keeps no runs."""

    def __init__(self) -> None:
        self.added: list[Measurement] = []

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Keep measurements."""
        self.added += measurements

    def close(self) -> None:
        """Nothing."""


def test_a_store_need_not_keep_runs() -> None:
    inner: Store = Plain()  # type: ignore[assignment]
    store = FallbackStore(inner)
    store.add_run(RUN)
    store.settle()
    assert store.notes == []


def test_runs_are_merged_once(tmp_path: Path) -> None:
    other = replace(RUN, target="other-2x-1", time=1.9e9)
    with open_store(tmp_path / "a.db") as source, open_store(tmp_path / "b.db") as destination:
        source.add_run(RUN)
        source.add_run(other)
        assert merge(source, destination, {"other-2x-1"}).runs == 1
        assert merge(source, destination).runs == 1
        assert merge(source, destination).runs == 0
        assert list(destination.read_runs()) == [other, RUN]
    memory = MemoryStore()
    with open_store(tmp_path / "a.db", writable=False) as source:
        assert merge(source, memory).runs == 2
