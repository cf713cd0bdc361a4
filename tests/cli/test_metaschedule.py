"""``records export --metaschedule`` and ``records import-metaschedule``, in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_cost import call, record, refused
from tests.models import conv_model
from tests.records.test_metaschedule_import import candidates, database
from tilewright.frontend.load import load
from tilewright.graph.tasks import extract
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records import open_store
from tilewright.records.metaschedule import RECORDS, WORKLOADS
from tilewright.records.store import Query
from tilewright.space.module import task_module
from tilewright.target import Target


def test_export(tmp_path: Path) -> None:
    records, folder = tmp_path / "r.db", tmp_path / "d"
    dense = record(records, count=2)
    with open_store(records) as store:
        (other,) = {m.target for m in store.scan(Query())}
        store.describe(dense)
        # Another task of which nothing can be written: its function is not known to be what was measured.
        store.add([Measurement("older", other, "contraction/1", (0,), Outcome.OK, (1.0,))])
    export: list[str | Path] = ["records", "export", "--records", records, "--metaschedule", folder]
    done = call(*export, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"2 records of 1 task written to {folder}\n"
    assert json.loads((tmp_path / "r.json").read_text()) == {"tasks": 1, "records": 2, "left_out": []}
    assert len((folder / RECORDS).read_text().splitlines()) == 2
    refused(f"has a {WORKLOADS}", *export)


def test_export_says_what_it_leaves_out(tmp_path: Path) -> None:
    records, report = tmp_path / "r.db", tmp_path / "r.json"
    dense = record(records, outcome=Outcome.RUN_CRASHED)
    with open_store(records) as store:
        good = replace(dense, key="good", name="good")
        store.describe(good)
        (first, *_) = store.scan(Query())
        store.add([replace(first, task="good", outcome=Outcome.OK, repeats=(1.0,))])
    done = call("records", "export", "--records", records, "--metaschedule", tmp_path / "d", "--json", report)
    assert done.exit_code == 0, done.output
    assert "left out: dense 5: no latency was measured" in done.stderr
    assert [entry["task"] for entry in json.loads(report.read_text())["left_out"]] == ["dense 5"]


def test_exports_that_cannot_be(tmp_path: Path) -> None:
    export = ["records", "export", "--records", str(tmp_path / "r.db"), "--metaschedule", str(tmp_path / "d")]
    refused("--out and --metaschedule are different kinds", *export, "--out", "b")
    refused("--programs and --metaschedule are different kinds", *export, "--programs", "b")
    refused("no such file", *export)
    record(tmp_path / "r.db", target="znver9-64x-0123")
    refused("nothing was measured on", *export)
    refused("LLVM knows no CPU", *export, "--target", "llvm:pentium-fantasy")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose task of plain layout was tuned by MetaSchedule, with two faulty lines among its records."""
    path, machine = conv_model(tmp_path / "m.onnx"), Target.parse()
    task = next(use.task for use in extract(load(path), machine).uses if use.task.kind == "auto")
    module = task_module(task)
    (tmp_path / "d").mkdir()
    database(tmp_path / "d", module, candidates(module, "replay-trace", machine), machine)
    with (tmp_path / "d" / RECORDS).open("a") as file:
        file.write("[0,[]]\n[0,[[[")
    return path


def test_import(model: Path) -> None:
    folder, records, report = model.with_name("d"), model.with_name("r.db"), model.with_name("r.json")
    done = call("records", "import-metaschedule", folder, "--records", records, "--model", model, "--json", report)
    assert done.exit_code == 0, done.output
    found = json.loads(report.read_text())
    assert found["added"] == found["records"] > 0
    assert done.stdout == f"{found['added']} of {found['records']} records added, of 1 task\n"
    assert done.stderr.count("faulty: ") == found["faulty"] == 2
    assert f"line {found['records'] + 2} (cut off at its end)" in done.stderr
    # Now the function is on record.
    done = call("records", "import-metaschedule", folder, "--records", records)
    assert done.exit_code == 0, done.output
    assert f"passed over: {found['records']}: it is in the records already" in done.stdout
    with open_store(records) as store:
        assert len(list(store.scan(Query()))) == found["records"]


def test_imports_that_cannot_be(tmp_path: Path) -> None:
    records = tmp_path / "r.db"
    command = ["records", "import-metaschedule", str(tmp_path), "--records", str(records)]
    refused("no such file", *command)
    assert not records.exists()
    refused("--shape goes with --model", *command, "--shape", "x=1")
    refused("cannot be read: No such file", *command, "--model", tmp_path / "none.onnx")
    open_store(records).close()
    refused("name a model with --model", *command)
    record(records)
    refused(f"{WORKLOADS} cannot be read: No such file", *command)
