"""What ``tune`` hands on and what it says, with a stand-in for the tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from tests.models import conv_model
from tilewright.cli import app
from tilewright.cli.fleet import _conclude, _Job
from tilewright.cli.tune import summary
from tilewright.cli.tuning import MethodNames, TuneOptions
from tilewright.cli.verbosity import Verbosity
from tilewright.tensor import TensorSpec
from tilewright.tuning.budget import Budget
from tilewright.tuning.report import ContestReport, DisturbanceReport, TuneReport
from tilewright.tuning.session_report import describe_parts


def test_quiet_prints_the_directory_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tune(*_: Any, **arguments: Any) -> SimpleNamespace:
        arguments["budget"].progress.announce(["a plan"])
        return SimpleNamespace(report=TuneReport())

    monkeypatch.setattr("tilewright.tuning.session.tune", tune)
    model, out = conv_model(tmp_path / "m.onnx"), tmp_path / "out"
    places = ["--out", str(out), "--records", str(tmp_path / "r.db"), "--cost-model", "none"]
    done = CliRunner().invoke(app, ["tune", str(model), *places, "--quiet"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{out}\n", "")


def test_without_a_directory_the_command_says_where_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.tuning.session.tune", lambda *_, **__: SimpleNamespace(report=TuneReport()))
    monkeypatch.chdir(tmp_path)
    conv_model(tmp_path / "m.onnx")
    done = CliRunner().invoke(app, ["tune", "m.onnx", "--records", "r.db", "--cost-model", "none"])
    assert f"no --out was given, so the executable goes to {tmp_path / 'm-tuned'}" in done.stderr
    assert "executable: m-tuned" in done.stdout


def test_one_run_only_is_shown_live(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["tune", "a.onnx", "b.onnx", "--fleet", "local", "--live"])
    assert done.exit_code == 2
    assert "--live serves the page of one run, but several models or kinds are named" in done.stderr


def test_each_of_several_executables_has_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    jobs = []
    for out, page in zip(outs, (True, False), strict=True):
        out.mkdir()
        options = TuneOptions(Path("m.onnx"), out, Budget(1.0), "native", None, 0, MethodNames(), Verbosity.NORMAL)
        jobs.append(_Job(replace(options, page=page), "kind", cast("Any", None), TuneReport()))
    _conclude(jobs, cast("Any", SimpleNamespace(report=list)), None)
    # There is no executable in this directory, and without a page nobody looks.
    assert [
        line.partition(" is a directory")[0] for line in capsys.readouterr().out.splitlines() if "note:" in line
    ] == ["note: an executable"]


def test_a_path_in_a_hint_is_quoted() -> None:
    assert "tilewright bench 'my out' --against" in summary(TuneReport(), Path("my out"))


@pytest.mark.parametrize("verbose", [False, True])
def test_details_are_printed_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verbose: bool
) -> None:
    def tune(*_: Any, **arguments: Any) -> SimpleNamespace:
        arguments["budget"].progress.announce(["how the budget is divided"], detail=True)
        return SimpleNamespace(report=TuneReport())

    monkeypatch.setattr("tilewright.tuning.session.tune", tune)
    model = conv_model(tmp_path / "m.onnx")
    places = ["--out", str(tmp_path / "out"), "--records", str(tmp_path / "r.db"), "--cost-model", "none"]
    done = CliRunner().invoke(app, ["tune", str(model), *places, *["--verbose"] * verbose])
    assert done.exit_code == 0, done.output
    assert ("how the budget is divided" in done.stderr) == verbose


@pytest.mark.parametrize(("name", "top"), [(None, 2), ("own", 2), ("published", 10), ("none", None)])
def test_the_way_of_sharing_is_the_methods_or_the_named_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, top: int | None
) -> None:
    given: dict[str, Any] = {}

    def tune(*_: Any, **arguments: Any) -> SimpleNamespace:
        given.update(arguments)
        return SimpleNamespace(report=TuneReport())

    monkeypatch.setattr("tilewright.tuning.session.tune", tune)
    model = conv_model(tmp_path / "m.onnx")
    places = ["--out", str(tmp_path / "out"), "--records", str(tmp_path / "r.db"), "--cost-model", "none"]
    done = CliRunner().invoke(app, ["tune", str(model), *places, *([] if name is None else ["--sharing", name])])
    assert done.exit_code == 0, done.output
    sharing = given["method"].sharing
    assert (None if sharing is None else sharing.top) == top


def test_disturbances_are_told_where_there_were_any() -> None:
    assert "disturbed" not in summary(TuneReport(), Path("out"))
    busy = DisturbanceReport(disturbed=7, remeasured=3, causes={"preemption": 5, "stolen time": 2})
    said = summary(TuneReport(disturbance=busy), Path("out"))
    assert "disturbed while timed: 7 candidates (preemption, stolen time); timed again: 3" in said


def test_what_the_contest_of_schedules_has_changed_is_told() -> None:
    contest = ContestReport(20, 60, 18.0, 5, ("conv2d", "pool"), 3.4, 3.2)
    said = summary(TuneReport(in_place=contest), Path("out"))
    assert "another schedule is faster for 2 of 20 tasks: 3.400 ms before, 3.200 ms after" in said
    assert "inside the network" not in summary(TuneReport(), Path("out"))


def test_parts_that_onnx_runtime_runs_are_told_with_their_reasons() -> None:
    network = SimpleNamespace(
        segments=[
            SimpleNamespace(
                operators=("NonZero", "Shape"),
                model=SimpleNamespace(graph=SimpleNamespace(node=[0, 1, 2])),
                reasons=("NonZero (n): values decide its shape", "NonZero (m): values decide its shape"),
            )
        ],
        inputs=[TensorSpec("x", (0, 8), "float32")],
    )
    segments, notes = describe_parts(network)  # type: ignore[arg-type]
    assert segments[0].nodes == 3
    said = summary(TuneReport(segments=segments, notes=notes), Path("out"))
    assert (
        "note: ONNX Runtime runs 3 operators (NonZero, Shape), so the executable needs the package onnxruntime: "
        "NonZero (n) and 1 more: values decide its shape"
    ) in said
    assert "note: the input 'x' is [0, 8], which has no elements" in said
    twice = describe_parts(network, network)  # type: ignore[arg-type]
    assert (len(twice[0]), twice[1]) == (2, notes)  # of two buckets the same is said once
