"""What a user can get wrong: one clear message, exit code 2, no traceback, and the same as JSON."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.models import conv_model
from tilewright.cli import app
from tilewright.cli.bench import raced
from tilewright.cli.options import check_model, check_target, records_place
from tilewright.cli.tuning import check_sharing
from tilewright.cost.models import make_model
from tilewright.errors import ModelFormatError, RecordsError, TilewrightError
from tilewright.methods.parts import combine, make_searcher
from tilewright.methods.registry import make_method
from tilewright.records import open_store

ROOT = Path(__file__).parents[2]


def tilewright(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tilewright.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
    )


def call(*arguments: str | Path, **environment: str) -> Result:
    """A command in this process.

    Another one takes longer to start, and to import the compiler, than all that is refused here.
    """
    return CliRunner().invoke(app, [*map(str, arguments)], env=environment)


def refused(folder: Path, kind: str, says: str, *arguments: str | Path) -> None:
    """The command ends with exit code 2 and one message, on the terminal and in the JSON file."""
    report = folder / "error.json"
    done = call(*arguments, "--json", report, XDG_DATA_HOME=str(folder / "data"))
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert done.stderr.count("error:") == 1
    assert says in done.stderr
    error = json.loads(report.read_text())["error"]
    assert error["type"] == kind
    assert error["message"] in done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"any file: what is refused here is refused before it is read")
    return path


@pytest.mark.parametrize(
    ("option", "says"), [("--target=cuda", "llvm:MCPU"), ("--target=llvm:pentium-fantasy", "LLVM knows no CPU")]
)
def test_a_process_ends_with_the_message_and_the_exit_code(tmp_path: Path, model: Path, option: str, says: str) -> None:
    report = tmp_path / "error.json"
    done = tilewright("tasks", model, option, "--json", report, XDG_DATA_HOME=str(tmp_path / "data"))
    assert done.returncode == 2, done.stderr
    assert (done.stdout, done.stderr) == ("", f"error: {json.loads(report.read_text())['error']['message']}\n")
    assert says in done.stderr


@pytest.mark.parametrize("budget", ["soon", "5 parsecs", "0s", "-5m", "nan", ""])
def test_budget_that_is_no_duration(tmp_path: Path, model: Path, budget: str) -> None:
    refused(tmp_path, "BudgetError", "90s, 5m", "tune", model, "--out", tmp_path / "o", f"--budget={budget}")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--searcher=bfs", "random, annealing, genetic, ppo"),
        ("--sampler=best", "top, epsilon-greedy"),
        ("--method=ansor", "default, autotvm, chameleon, schedule_sharing, gbfs, na2c, graph_cost_model"),
    ],
)
def test_strategy_that_does_not_exist(tmp_path: Path, model: Path, option: str, says: str) -> None:
    refused(tmp_path, "TilewrightError", says, "tune", model, "--out", tmp_path / "o", option)


def test_a_method_and_a_part_of_one(tmp_path: Path, model: Path) -> None:
    options = ["--method=gbfs", "--sampler=top"]
    refused(tmp_path, "TilewrightError", "leave one", "tune", model, "--out", tmp_path / "o", *options)


@pytest.mark.parametrize("command", ["tune", "tasks"])
def test_missing_model(tmp_path: Path, command: str) -> None:
    more = ["--out", str(tmp_path / "o"), "--budget", "5s"] if command == "tune" else []
    refused(tmp_path, "ModelFormatError", "No such file", command, tmp_path / "none.onnx", *more)


def test_model_that_is_a_directory(tmp_path: Path) -> None:
    refused(tmp_path, "ModelFormatError", "directory", "tune", tmp_path, "--out", tmp_path / "o", "--budget", "5s")


def test_model_that_is_a_pipe(tmp_path: Path) -> None:
    """Nobody writes to it, so reading it would never end."""
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path, "ModelFormatError", "a pipe or a device", "tune", tmp_path / "pipe.onnx", "--budget", "5s")


@pytest.mark.parametrize("content", [b"", b"this is no model", b"\x08\x07\x12\x05hello\x3a\xff\xff\x7f"])
def test_model_that_is_not_onnx(tmp_path: Path, model: Path, content: bytes) -> None:
    pytest.importorskip("tilewright.frontend.load")
    model.write_bytes(content)
    refused(tmp_path, "ModelFormatError", "model.onnx", "tune", model, "--out", tmp_path / "o", "--budget", "5s")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("target", ["gpu", "llvm:", "cuda", ""])
def test_unknown_target(tmp_path: Path, model: Path, target: str) -> None:
    arguments = ["--out", str(tmp_path / "o"), "--budget", "5s", f"--target={target}"]
    refused(tmp_path, "TargetError", "llvm:MCPU", "tune", model, *arguments)


def test_target_that_only_the_compiler_knows_to_be_wrong(tmp_path: Path, model: Path) -> None:
    refused(tmp_path, "TargetError", "LLVM knows no CPU", "tasks", model, "--target", "llvm:pentium-fantasy")


def test_out_below_a_file(tmp_path: Path, model: Path) -> None:
    refused(tmp_path, "OutputError", "--out", "tune", model, "--out", model / "o", "--budget", "5s")
    refused(tmp_path, "OutputError", "--out", "tune", model, "--out", model, "--budget", "5s")
    assert model.read_bytes().startswith(b"any file")


def test_out_that_holds_something_else(tmp_path: Path, model: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.tex").write_text("ten years of work")
    # Before the model is read, which would be refused as well, for it is none.
    refused(tmp_path, "OutputError", "other files", "tune", model, "--out", tmp_path / "o", "--budget", "5m")
    assert (tmp_path / "o" / "thesis.tex").read_text() == "ten years of work"


def test_out_that_the_system_refuses(tmp_path: Path, model: Path) -> None:
    refused(tmp_path, "OutputError", "--out", "tune", model, "--out", "/proc/tilewright/o", "--budget", "5s")


@pytest.mark.parametrize("text", ["x", "=1,3", "x=", "x=1,,3", "x=1,-3", "x=1,0", "x=1.5", "x=a,b"])
def test_shape_that_is_none(tmp_path: Path, model: Path, text: str) -> None:
    refused(tmp_path, "ShapeError", "NAME=1,3,224,224", "tasks", model, "--shape", text)


def test_shapes_of_another_rank(tmp_path: Path) -> None:
    model = conv_model(tmp_path / "conv.onnx")
    refused(tmp_path, "ShapeError", "keeps the dimensions", "tasks", model, "--shape", "x=1", "--shape", "x=2")


def test_records_of_another_format(tmp_path: Path, model: Path) -> None:
    records = tmp_path / "records.db"
    records.write_text("not a database")
    commands: list[list[str | Path]] = [
        ["tune", model, "--out", tmp_path / "o", "--budget", "5s"],
        ["tasks", model],
        ["records", "ls"],
    ]
    for arguments in commands:
        refused(tmp_path, "RecordsFormatError", "SQLite", *arguments, "--records", records)
    assert records.read_text() == "not a database"


def test_records_of_a_newer_version(tmp_path: Path, model: Path) -> None:
    records = tmp_path / "records.db"
    open_store(records).close()
    connection = sqlite3.connect(records)
    connection.execute("PRAGMA user_version = 1000")
    connection.close()
    before = records.read_bytes()
    arguments: list[str | Path] = ["tune", model, "--out", tmp_path / "o", "--budget", "5s", "--records", records]
    refused(tmp_path, "RecordsVersionError", "upgrade", *arguments)
    assert records.read_bytes() == before


def test_records_that_are_not_there(tmp_path: Path) -> None:
    refused(tmp_path, "RecordsError", "no such file", "records", "ls", "--records", tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("command", ["run", "bench"])
def test_directory_that_is_no_executable(tmp_path: Path, command: str) -> None:
    pytest.importorskip("tilewright.executable.executable")
    refused(tmp_path, "OutputError", str(tmp_path), command, tmp_path)


def test_unknown_peer(tmp_path: Path) -> None:
    refused(tmp_path, "TilewrightError", "one of onnxruntime, untuned", "bench", tmp_path, "--against", "abacus")


def test_json_file_that_cannot_be_written(tmp_path: Path, model: Path) -> None:
    done = call("tasks", model, "--json", tmp_path / "none" / "x.json")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert "--json" in done.stderr


def test_json_file_that_is_something_else(tmp_path: Path, model: Path) -> None:
    """Such as the model, or the records, whose names are on the same line."""
    before = model.read_bytes()
    done = call("tasks", model, "--json", model)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: --json replaces earlier reports only")
    assert model.read_bytes() == before
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    done = call("run", tmp_path, "--json", manifest)
    assert done.stderr.startswith("error: --json replaces earlier reports only")
    assert manifest.read_text() == "{}"
    done = call("tune", model, "--out", tmp_path / "o", "--json", tmp_path / "o")
    assert (done.exit_code, done.stderr.count("is the directory of the executable")) == (2, 1)
    report = tmp_path / "x.json"
    report.write_text('{"an": "earlier report"}\n')
    assert call("tasks", tmp_path / "none.onnx", "--json", report).exit_code == 2
    assert "error" in json.loads(report.read_text())


@pytest.mark.parametrize("out", [".", "x" * 300], ids=["here", "long"])
def test_a_place_that_no_executable_can_take(tmp_path: Path, model: Path, out: str) -> None:
    refused(tmp_path, "OutputError", "name another", "tune", model, "--out", out)


def test_a_number_of_threads_is_looked_at_before_the_tuning(tmp_path: Path, model: Path) -> None:
    done = call("tune", model, "--out", tmp_path / "o", TVM_NUM_THREADS="two", XDG_DATA_HOME=str(tmp_path))
    assert done.exit_code == 2
    assert "TVM_NUM_THREADS is a number of threads" in done.stderr


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    for name in ("XDG_DATA_HOME", "TILEWRIGHT_RECORDS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RecordsError, match="--records"):
        records_place(None)


def test_an_option_that_does_not_exist_is_a_usage_error() -> None:
    done = call("tune", "--fast")
    assert done.exit_code == 2
    assert "--help" in done.stderr


def test_records_on_a_server_that_is_not_there(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("psycopg")
    url = "postgresql://me:secret@/records?host=/nowhere"
    for arguments in (["tune", model, "--out", tmp_path / "o"], ["tasks", model], ["records", "ls"]):
        refused(tmp_path, "RecordsError", "see that the server runs", *arguments, "--records", url)
    done = tilewright("records", "ls", TILEWRIGHT_RECORDS=url)
    assert done.returncode == 2
    assert "postgresql://me@/records" in done.stderr
    assert "secret" not in done.stderr


def test_records_on_a_server_of_another_kind(tmp_path: Path) -> None:
    url = "mysql://me:secret@host/records"
    refused(tmp_path, "RecordsError", "postgresql://USER@HOST/DATABASE", "records", "ls", "--records", url)


@pytest.mark.parametrize(
    ("ask", "wrong", "right"),
    [
        (check_target, "natve", "native"),
        (check_sharing, "publised", "published"),
        (make_method, "autotmv", "autotvm"),
        (make_searcher, "bayesan", "bayesian"),
        (partial(combine, "random"), "epsilon_greedy", "epsilon-greedy"),
        (make_model, "xgb-rank", "xgb_rank"),
    ],
)
def test_a_mistyped_name_is_corrected(ask: Callable[[str], object], wrong: str, right: str) -> None:
    with pytest.raises(TilewrightError, match=f"did you mean '{right}'"):
        ask(wrong)


def test_a_mistyped_file_is_corrected(model: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"did you mean 'model\.onnx'"):
        check_model(model.with_name("modle.onnx"))


def test_a_mistyped_peer_is_corrected(tmp_path: Path) -> None:
    with pytest.raises(TilewrightError, match="did you mean 'onnxruntime'"):
        raced(tmp_path, ["onnxrutime"])


def test_a_mistyped_option_is_corrected() -> None:
    done = call("tune", "--budge", "5m")
    assert done.exit_code == 2
    assert "--budget" in done.stderr
