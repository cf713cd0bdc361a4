"""A whole tuning of a tiny network: the report, the executable, and what a second run makes of the records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.models import TARGET, conv_model, runs
from tilewright.errors import CheckError, RecordsError
from tilewright.executable.executable import load_executable
from tilewright.frontend.load import load
from tilewright.jsonable import to_json_object
from tilewright.measure.outcome import Measurement
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query
from tilewright.tuning import bucketing, session
from tilewright.tuning.budget import Budget
from tilewright.tuning.report import TaskReport, TuneReport

pytestmark = runs
tune = partial(session.tune, target=TARGET)

#: What the documentation says about the report.
PAGE = Path(__file__).parents[2] / "docs/reference/command-line.md"


@dataclass(frozen=True)
class Runs:
    """Two runs of one model with one store: for cold caches, and then a first one for warm caches.

    ``cold_targets`` are the targets of what the store held after the run for cold caches.
    """

    model: Path
    store: MemoryStore
    cold: TuneReport
    cold_targets: set[str]
    first: TuneReport


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder, store = tmp_path_factory.mktemp("runs"), MemoryStore()
    model, target = conv_model(folder / "m.onnx"), replace(TARGET, caches="cold")
    cold = tune(model, folder / "cold", budget=Budget(trials=2), records=store, target=target).report
    cold_targets = {m.target for m in store.scan(Query())}
    first = tune(model, folder / "one", budget=Budget(seconds=60, trials=6), records=store).report
    return Runs(model, store, cold, cold_targets, first)


def copied(store: MemoryStore, target: str = "") -> MemoryStore:
    """Another store with the same measurements, or with these for another target."""
    found = MemoryStore()
    found.add([replace(m, target=target or m.target) for m in store.scan(Query())])
    return found


def test_a_run_and_another_one_with_its_records(made: Runs, tmp_path: Path) -> None:
    first, store = made.first, copied(made.store)
    assert 0 < first.wall_seconds < 60
    assert 0 < first.trials <= 6
    assert first.trials_per_second > 0
    assert first.method == "bayesian+xgb_reg"
    assert first.relative_error is not None
    assert first.relative_error <= 1e-5
    assert first.verdict is not None
    assert first.first_check is not None
    assert first.verdict.right
    assert first.first_check.verdict.right
    assert first.tasks
    for task in first.tasks:
        assert task.name
        assert task.weight > 0
        assert task.flop > 0
        assert task.trials >= 0
    bests = {task.name: task.best_seconds for task in first.tasks if task.best_seconds is not None}
    assert bests
    about = PAGE.read_text(encoding="utf-8").partition("### Its report")[2].partition("\n## ")[0]
    heads = re.findall(r"^\| (`.*?`) \|", about, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", ", ".join(heads))) == to_json_object(first).keys()
    assert set(re.findall(r"`(\w+)`", about)) >= {field.name for field in fields(TaskReport)}
    measured = len(list(store.scan(Query(None, first.target, None))))
    assert measured >= first.trials
    assert [task.recorded for task in first.tasks] == [0] * len(first.tasks)
    known = {task.name: len(list(store.scan(Query(task.key, first.target, None)))) for task in first.tasks}

    result = tune(made.model, tmp_path / "two", budget=Budget(trials=6), records=store)
    assert len(list(store.scan(Query(None, first.target, None)))) > measured
    assert {task.name: task.recorded for task in result.report.tasks} == known
    assert sum(known.values()) == measured
    for task in result.report.tasks:
        if task.name in bests:  # what was found before counts, whatever this run's trials gave
            assert task.best_seconds is not None
    assert load_executable(tmp_path / "two").outputs == result.executable.outputs


def test_cold_and_warm_measurements_are_kept_apart(made: Runs, tmp_path: Path) -> None:
    cold, warm = made.cold, made.first
    assert cold.caches == "cold"
    assert cold.target.endswith("-cold")
    assert cold.trials > 0
    assert made.cold_targets == {cold.target}
    assert warm.caches == "warm"
    assert {m.target for m in made.store.scan(Query(None, None, None))} == {cold.target, warm.target}
    assert [task.recorded for task in warm.tasks] == [0] * len(warm.tasks)
    small = replace(TARGET, l3=1 << 10)
    report = tune(
        made.model, tmp_path / "streamed", budget=Budget(trials=2), records=copied(made.store), target=small
    ).report
    assert report.caches == "streamed"
    assert report.target == f"{small.key}-streamed"
    assert report.trials > 0


class FullDisk(MemoryStore):
    """Takes two measurements, and then no more until there is room."""

    def __init__(self, room: float) -> None:
        super().__init__()
        self.room = room

    def add(self, measurements: Sequence[Measurement]) -> None:
        if len(list(self.scan(Query()))) + len(measurements) > self.room:
            raise RecordsError("the disk is full; make room")
        super().add(measurements)


def test_a_disk_that_fills_up_ends_nothing(tmp_path: Path) -> None:
    store = FullDisk(2)
    budget = Budget(seconds=None, trials=4)  # no seconds: a busy machine may need all of them for reading the model
    report = tune(conv_model(tmp_path / "m.onnx"), tmp_path / "out", budget=budget, records=store).report
    assert len(list(store.scan(Query()))) == 2
    assert report.unrecorded > 0
    # A tuned executable that wins of so few trials adds a note that there was no race.
    trouble, end = [note for note in report.notes if "was not raced" not in note]
    assert trouble == "the disk is full; make room; tuning goes on, and what the records do not take is kept in memory"
    assert (
        end == f"{report.unrecorded} measurements are in no records and will be forgotten: the disk is full; make room"
    )
    load_executable(tmp_path / "out")


def test_what_is_wrong_is_found_before_anything_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_wrongly(model: Any, shapes: Any = None) -> Any:
        network = load(model, shapes)
        return (replace(network, weights={name: -array for name, array in network.weights.items()}),)

    monkeypatch.setattr(bucketing, "load_buckets", load_wrongly)
    out, store = tmp_path / "out", MemoryStore()
    with pytest.raises(CheckError, match=r"outputs are wrong: on input 1") as caught:
        tune(conv_model(tmp_path / "m.onnx"), out, budget="60s", records=store)
    assert not out.exists()
    assert not list(store.scan(Query()))  # nothing was measured
    report = caught.value.report
    assert report["verdict"]["outcome"] == "wrong"
    assert report["model"] == "m"
    assert report["wall_seconds"] < 60


def test_a_budget_too_short_to_measure_still_gives_an_executable(tmp_path: Path) -> None:
    store = MemoryStore()
    result = tune(conv_model(tmp_path / "m.onnx"), tmp_path / "out", budget=Budget(seconds=1.0), records=store)
    assert result.report.trials == 0
    assert result.report.default_tasks == tuple(task.name for task in result.report.tasks)
    assert result.report.final_race is None
    assert result.report.relative_error is not None
    assert result.report.relative_error <= 1e-5
    assert result.report.published == "incumbent"
    assert not list(store.scan(Query()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "out"]


def test_records_of_other_machines_change_nothing(made: Runs, tmp_path: Path) -> None:
    foreign = copied(made.store, target="another")
    result = tune(made.model, tmp_path / "two", budget=Budget(seconds=1.0), records=foreign)
    assert all(task.recorded == 0 for task in result.report.tasks)
    own = tune(made.model, tmp_path / "three", budget=Budget(seconds=1.0), records=copied(made.store))
    assert any(task.recorded > 0 for task in own.report.tasks)
    assert any(task.best_seconds is not None for task in own.report.tasks)
    assert all(task.best_seconds is None for task in result.report.tasks)
