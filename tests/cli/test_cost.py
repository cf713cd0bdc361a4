"""``cost train``, ``cost eval`` and ``records export --programs``, in this process."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.cli.test_bad_input import tilewright
from tests.cost.data import data_set, narrower
from tests.cost.test_models import rewrite
from tests.ops.contraction.test_space import task
from tilewright.cli import app
from tilewright.cost import models
from tilewright.cost.dataset import DataSet, read_data_set, write_data_set
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.ops.registry import make_space
from tilewright.records import open_store
from tilewright.space.configs import sample
from tilewright.target import Target
from tilewright.task import Task


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(says: str, *arguments: str | Path) -> None:
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data_set(data_set(), tmp_path / "d.parquet")
    return tmp_path / "d.parquet"


def trained(data: Path, *more: str) -> Path:
    done = call("cost", "train", "--data", data, "--out", data.with_name("m.npz"), *more)
    assert done.exit_code == 0, done.output
    return data.with_name("m.npz")


def record(path: Path, target: str | None = None, outcome: Outcome = Outcome.OK, count: int = 30) -> Task:
    """Records of one described task: made-up latencies of real programs."""
    dense, machine = replace(task("dense 5"), key="dense", name="dense 5"), Target.parse("native")
    space = make_space(dense, machine)
    rows = sample(space, np.random.default_rng(0), count)
    times = [(1e-3 * (1 + sum(row)),) if outcome is Outcome.OK else () for row in rows.tolist()]
    with open_store(path) as store:
        store.describe(dense)
        store.add(
            [
                Measurement("dense", target or machine.key, space.template, tuple(row), outcome, repeats, time=1.7e9)
                for row, repeats in zip(rows.tolist(), times, strict=True)
            ]
        )
    return dense


def test_train_and_eval(data: Path) -> None:
    report, out = data.with_name("r.json"), data.with_name("m.npz")
    done = call("cost", "train", "--data", data, "--model", "xgb_reg", "--out", out, "--seed", "3", "--json", report)
    assert done.exit_code == 0, done.output
    assert "xgb_reg fitted to 3 tasks, 180 programs in" in done.stdout
    assert "quality on the training data, which says little" in done.stdout
    found = json.loads(report.read_text())
    assert (found["model"], found["tasks"][0]["programs"], found["held_out"]) == ("xgb_reg", 60, False)
    stored = models.load_model(out)
    about = stored.about
    assert (stored.name, about["tasks"], about["programs"], about["seed"]) == ("xgb_reg", 3, 180, 3)
    assert about["target"] == {"mcpu": "toy"}
    done = call("cost", "eval", out, "--data", data, "--json", report)
    assert done.exit_code == 0, done.output
    assert "matmul 0 *" in done.stdout
    assert "* the model was trained on this task" in done.stdout
    found = json.loads(report.read_text())
    assert [entry["trained_on"] for entry in found["tasks"]] == [True] * 3
    assert found["mean"]["pairwise_accuracy"]["mean"] > 0.9
    assert found["mean"]["top1_regret"]["low"] <= found["mean"]["top1_regret"]["high"]


@pytest.mark.parametrize(("text", "held"), [("resnet", ["key0", "key1"]), ("matmul 2", ["key2"])])
def test_hold_out(data: Path, text: str, held: list[str]) -> None:
    report = data.with_name("r.json")
    out = trained(data, "--hold-out", text, "--json", str(report))
    found = json.loads(report.read_text())
    assert [entry["task"] for entry in found["tasks"]] == held
    assert found["held_out"]
    trained_on = models.load_model(out).about["trained_on"]
    assert isinstance(trained_on, list)
    assert not any(key in trained_on for key in held)
    done = call("cost", "eval", out, "--data", data)
    assert "matmul 2 *" in done.stdout or text == "matmul 2"
    assert f"{held[0].replace('key', 'matmul ')} *" not in done.stdout


def test_hold_out_of_all_or_none(data: Path) -> None:
    for text, says in (("matmul", "is in the names of all"), ("vgg", "is in the names of none")):
        refused(says, "cost", "train", "--data", data, "--out", data.with_name("m.npz"), "--hold-out", text)


def test_the_model_matters(data: Path) -> None:
    contents = set()
    for more in (["--model", "xgb_rank"], ["--model", "xgb_reg"]):
        contents.add(trained(data, *more).read_bytes())
    assert len(contents) == 2


def test_files_that_are_missing_or_damaged(data: Path, tmp_path: Path) -> None:
    out, none = tmp_path / "m.npz", tmp_path / "none"
    refused("No such file", "cost", "train", "--data", none, "--out", out)
    refused("no such file", "cost", "train", "--records", none, "--out", out)
    refused("--out", "cost", "train", "--data", data, "--out", none / "m.npz")
    refused("--out", "cost", "train", "--data", data, "--out", tmp_path)
    refused("No such file", "cost", "eval", none, "--data", data)
    trained(data)
    refused("No such file", "cost", "eval", out, "--data", none)
    data.write_bytes(data.read_bytes()[:500])
    refused("a data set is a Parquet file", "cost", "eval", out, "--data", data)
    refused("a data set is a Parquet file", "cost", "train", "--data", data, "--out", out)
    out.write_bytes(out.read_bytes()[:500])
    refused("damaged", "cost", "eval", out, "--data", data)


def test_a_model_of_other_features_templates_or_widths(data: Path) -> None:
    out = trained(data)
    tasks = data_set().tasks
    write_data_set(DataSet(tuple(map(narrower, tasks))), data)
    refused("differ in width", "cost", "eval", out, "--data", data)
    write_data_set(DataSet(tuple(replace(t, template="dense/9") for t in tasks)), data)
    refused("fitted to programs of the template toy-matmul/1", "cost", "eval", out, "--data", data)
    write_data_set(DataSet((*tasks[:2], replace(tasks[2], template="dense/9"))), data)
    refused("of dense/9, toy-matmul/1", "cost", "train", "--data", data, "--out", out)
    rewrite(out, features=1000)
    refused("to version 1000; train it again", "cost", "eval", out, "--data", data)


def test_what_is_asked_for_does_not_exist(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = data.with_name("m.npz")
    refused("one of xgb_rank", "cost", "train", "--data", data, "--out", out, "--model", "oracle")
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    refused("tilewright[torch]", "cost", "train", "--data", data, "--out", out, "--model", "mlp")
    refused("leave one out", "cost", "train", "--data", data, "--records", data, "--out", out)
    refused("leave one out", "cost", "train", "--data", data, "--target", "native", "--out", out)


@pytest.mark.parametrize(("count", "failures"), [(1, 0.0), (30, 1.1)])
def test_one_program_of_each_task_and_nothing_but_failures(data: Path, count: int, failures: float) -> None:
    write_data_set(data_set(count, failures), data)
    refused("has learnt nothing", "cost", "train", "--data", data, "--out", data.with_name("m.npz"))
    assert not data.with_name("m.npz").exists()


def test_without_pyarrow(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    refused("tilewright[parquet]", "cost", "train", "--data", data, "--out", data.with_name("m.npz"))


def test_export_of_programs(tmp_path: Path) -> None:
    records, file, out = tmp_path / "r.db", tmp_path / "d.parquet", tmp_path / "m.npz"
    dense = record(records)
    done = call("records", "export", "--records", records, "--programs", file, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"30 programs of 1 task written to {file}, 0 of them failed\n"
    report: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
    assert (report["tasks"], report["programs"]) == (1, 30)
    (found,) = read_data_set(file).tasks
    assert (found.task, found.name, len(found)) == (dense.key, dense.name, 30)
    assert call("cost", "train", "--records", records, "--out", out).exit_code == 0
    done = call("cost", "eval", out, "--data", file)
    assert "dense 5 *" in done.stdout


def test_exports_that_have_nothing_to_write(tmp_path: Path) -> None:
    file, records = tmp_path / "d.parquet", tmp_path / "r.db"
    export = ["records", "export", "--records", str(records), "--programs", str(file)]
    open_store(records).close()
    refused("holds no functions", *export)
    record(records, count=1)
    refused("two measured programs in closed form", *export)
    records.unlink()
    record(records, target="znver9-64x-0123")
    refused("holds measurements of znver9-64x-0123", *export)
    refused("LLVM knows no CPU", *export, "--target", "llvm:pentium-fantasy")
    assert not file.exists()


def test_exports_that_contradict_themselves(tmp_path: Path) -> None:
    export = ["records", "export", "--records", str(tmp_path / "r.db")]
    refused("different kinds of export", *export, "--programs", "a", "--out", "b")
    refused("--programs", *export, "--target", "native")


def test_records_of_nothing_but_failures(tmp_path: Path) -> None:
    record(tmp_path / "r.db", outcome=Outcome.RUN_CRASHED)
    refused("has learnt nothing", "cost", "train", "--records", tmp_path / "r.db", "--out", tmp_path / "m.npz")


def test_a_damaged_task_of_the_records(tmp_path: Path) -> None:
    record(tmp_path / "r.db")
    connection = sqlite3.connect(tmp_path / "r.db")
    connection.execute("UPDATE tasks SET ir = 'zlib:AAAA'")
    connection.commit()
    connection.close()
    refused("not a task", "records", "export", "--records", tmp_path / "r.db", "--programs", tmp_path / "d.parquet")


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = tilewright("cost", "eval", tmp_path / "none.npz", "--json", tmp_path / "e.json")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "e.json").read_text())["error"]["type"] == "CostModelError"
