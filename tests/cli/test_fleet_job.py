"""One of several models: what its process tells the command, and what the command makes of it."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from tests.fleet.here import toy_fleet
from tests.models import conv_model
from tilewright.cli.boundary import explain_error
from tilewright.cli.fleet import Cluster, _conclude, _follow, _Job
from tilewright.cli.fleet_job import main
from tilewright.cli.tuning import MethodNames, TuneOptions
from tilewright.cli.verbosity import Verbosity
from tilewright.errors import CheckError
from tilewright.interrupts import watching
from tilewright.measure.process import ChildProcess
from tilewright.tuning.budget import Budget
from tilewright.tuning.progress import TuneState
from tilewright.tuning.report import NodeReport, TuneReport

Told = list[tuple[str, Any]]
BUG = "this is a bug in Tilewright; please report it with what the same command prints with TILEWRIGHT_DEBUG=1"
FULL = OSError(errno.ENOSPC, "No space left on device", "/somewhere/file")


def options_for(folder: Path) -> TuneOptions:
    model, names = conv_model(folder / "m.onnx"), MethodNames(cost_model="none")
    records = str(folder / "r.db")
    return TuneOptions(model, folder / "out", Budget(trials=3), "native", records, 0, names, Verbosity.NORMAL)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], Told]:
    def run(tune: Callable[..., Any]) -> Told:
        monkeypatch.setattr("tilewright.tuning.session.tune", tune)
        ours, theirs = Pipe()
        ours.send((options_for(tmp_path), Cluster("")))
        main(theirs)
        found = []
        while ours.poll(0):
            found.append(ours.recv())
        return found

    return run


def test_progress_and_the_report_are_told(told: Callable[[Callable[..., Any]], Told]) -> None:
    node = NodeReport("n1", "znver4-1x", 1, "excluded", "it lies", 3)

    def tune(*_: Any, **arguments: Any) -> SimpleNamespace:
        progress = arguments["budget"].progress
        with progress:
            progress.announce(["a plan"])
            progress.announce(["a detail"], detail=True)
            progress.update(TuneState(trials=5, nodes=(node,)))
        return SimpleNamespace(report=TuneReport(trials=5))

    lines, state, report = told(tune)
    assert lines == ("lines", ["a plan"])
    assert state[0] == "state"
    assert "trials 5" in state[1][0]
    assert "gone 1 node excluded" in state[1][0]
    assert state[1][1] == [("n1", "it lies")]  # the other models hear of it
    assert report == ("report", (TuneReport(trials=5), []))


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (CheckError("its outputs are wrong"), ("CheckError", "its outputs are wrong", 1)),
        (KeyboardInterrupt(), ("KeyboardInterrupt", "interrupted", 130)),
        (ValueError("a bug"), ("ValueError", f"ValueError: a bug\n{BUG}", 1)),
        (FULL, ("ResourceError", str(explain_error(FULL)[0]), 2)),
    ],
)
def test_errors_are_told(
    told: Callable[[Callable[..., Any]], Told],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    answer: tuple[str, str, int],
) -> None:
    def tune(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.delenv("TILEWRIGHT_DEBUG", raising=False)
    assert told(tune)[-1] == ("error", answer)


class Job:
    """A job of this command in its own process."""

    def __init__(self, options: TuneOptions) -> None:
        process = ChildProcess("a test needs processes", "tilewright.cli.fleet_job")
        process.send((options, Cluster("")))
        self.job = _Job(options, "here", process)

    def finish(self, fleet: Any, report: Path) -> int:
        """Run it as the command does. Returns the exit code."""
        interrupted = _follow([self.job], fleet)
        with pytest.raises(typer.Exit) as caught:
            _conclude([self.job], fleet, report, interrupted=interrupted)
        return int(caught.value.exit_code)


@pytest.fixture
def begin() -> Iterator[Callable[[TuneOptions], Job]]:
    jobs: list[Job] = []

    def make(options: TuneOptions) -> Job:
        jobs.append(Job(options))
        return jobs[-1]

    yield make
    for made in jobs:
        made.job.process.kill()


@pytest.mark.parametrize("debugging", [False, True])
def test_a_bug_in_a_job_is_one_of_the_command(
    begin: Callable[[TuneOptions], Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    debugging: bool,
) -> None:
    monkeypatch.setenv("TILEWRIGHT_DEBUG", str(int(debugging)))
    with toy_fleet("one") as (fleet, _):
        job = begin(replace(options_for(tmp_path), seed=cast("int", "no number")))
        assert job.finish(fleet, tmp_path / "r.json") == 1
    said = capsys.readouterr().err
    assert "error: m for here: TypeError: " in said
    assert BUG in said
    assert ("Traceback" in said) is debugging
    (model,) = json.loads((tmp_path / "r.json").read_text())["models"]
    assert model["error"]["type"] == "TypeError"


def test_a_model_that_a_job_refuses_is_bad_input(
    begin: Callable[[TuneOptions], Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options_for(tmp_path)
    options.model.write_bytes(b"this is no model")
    with toy_fleet("one") as (fleet, _):
        assert begin(options).finish(fleet, tmp_path / "r.json") == 2
    said = capsys.readouterr().err
    assert "error: m for here: " in said
    assert BUG not in said


def test_an_interrupted_command_ends_as_one(
    begin: Callable[[TuneOptions], Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever its jobs end with: here the signal comes before they can write an executable."""
    with toy_fleet("one") as (fleet, _), watching():
        job, events = begin(options_for(tmp_path)), fleet.events

        def interrupt(seconds: float) -> None:
            monkeypatch.setattr(fleet, "events", events)
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(fleet, "events", interrupt)
        assert job.finish(fleet, tmp_path / "r.json") == 128 + signal.SIGINT
    assert "m for here" in "".join(capsys.readouterr())
