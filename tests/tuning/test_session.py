"""A whole tuning of a tiny network: the report, the executable, and what a second run makes of the records."""

from __future__ import annotations

from pathlib import Path

from tests.network.models import conv_model
from tilewright.network.executable import load_executable
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query
from tilewright.tuning.budget import Budget
from tilewright.tuning.session import tune


def test_two_runs_with_one_store(tmp_path: Path) -> None:
    model, store = conv_model(tmp_path / "m.onnx"), MemoryStore()
    budget = Budget(seconds=60, trials=6)
    first = tune(model, tmp_path / "one", budget=budget, records=store).report
    assert 0 < first["wall_seconds"] < 60
    assert 0 < first["trials"] <= 6
    assert first["trials_per_second"] > 0
    assert isinstance(first["failures"], dict | int)
    assert first["relative_error"] <= 1e-3
    assert first["tasks"]
    for task in first["tasks"]:
        assert task["name"]
        assert task["weight"] > 0
        assert task["flop"] > 0
        assert task["trials"] >= 0
    bests = {task["name"]: task["best_seconds"] for task in first["tasks"] if task["best_seconds"] is not None}
    assert bests
    measured = len(list(store.scan(Query(None, None, None))))
    assert measured >= first["trials"]

    result = tune(model, tmp_path / "two", budget=budget, records=store)
    assert len(list(store.scan(Query(None, None, None)))) > measured
    for task in result.report["tasks"]:
        if task["name"] in bests:  # what was found before counts, whatever this run's trials gave
            assert task["best_seconds"] is not None
    assert load_executable(tmp_path / "two").outputs == result.executable.outputs
