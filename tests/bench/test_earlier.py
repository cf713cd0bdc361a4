"""What ``bench.earlier`` gives to the arms that know other networks."""

from __future__ import annotations

from pathlib import Path

from bench.earlier import others
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records import open_store
from tilewright.records.store import Query
from tilewright.task import Task


def test_records_of_all_other_networks_are_put_together(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        with open_store(tmp_path / name / "records.db") as store:
            store.describe(Task(name, name, "dense", 1.0, f"function {name}"))
            store.add([Measurement(name, "a machine", "toy/1", (1, 2), Outcome.OK, (1e-3,))])
    assert others(tmp_path, "two", tmp_path / "others.db") == 2
    with open_store(tmp_path / "others.db") as store:
        assert [task.ir for task in store.tasks()] == ["function one", "function three"]
        assert {m.task for m in store.scan(Query())} == {"one", "three"}
