"""One of several models: what its process tells the command."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.models import conv_model
from tilewright.cli.fleet import Cluster
from tilewright.cli.fleet_job import main
from tilewright.cli.tuning import MethodNames, TuneOptions
from tilewright.cli.verbosity import Verbosity
from tilewright.errors import CheckError
from tilewright.tuning.budget import Budget
from tilewright.tuning.progress import TuneState
from tilewright.tuning.report import NodeReport, TuneReport

Told = list[tuple[str, Any]]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], Told]:
    def run(tune: Callable[..., Any]) -> Told:
        monkeypatch.setattr("tilewright.tuning.session.tune", tune)
        model, names = conv_model(tmp_path / "m.onnx"), MethodNames(cost_model="none")
        records = str(tmp_path / "r.db")
        options = TuneOptions(model, tmp_path / "out", Budget(trials=3), "native", records, 0, names, Verbosity.NORMAL)
        ours, theirs = Pipe()
        ours.send((options, Cluster("")))
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
        (CheckError("its outputs are wrong"), ("CheckError", "its outputs are wrong")),
        (KeyboardInterrupt(), ("KeyboardInterrupt", "interrupted")),
        (ValueError("a bug"), ("ValueError", "ValueError: a bug")),
    ],
)
def test_errors_are_told(
    told: Callable[[Callable[..., Any]], Told], error: BaseException, answer: tuple[str, str]
) -> None:
    def tune(*_: Any, **__: Any) -> None:
        raise error

    assert told(tune)[-1] == ("error", answer)
