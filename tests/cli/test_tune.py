"""What ``tune`` hands on and what it says, with a stand-in for the tuning."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.models import conv_model
from tilewright.cli import app
from tilewright.cli.tune import summary


@pytest.mark.parametrize(("options", "target"), [([], "native"), (["--target", "native:cold"], "native:cold")])
def test_the_target_with_the_state_of_its_caches_is_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], target: str
) -> None:
    given: dict[str, Any] = {}

    def tune(*_: Any, **arguments: Any) -> SimpleNamespace:
        given.update(arguments)
        return SimpleNamespace(report={"interrupted": False})

    monkeypatch.setattr("tilewright.tuning.session.tune", tune)
    model = conv_model(tmp_path / "m.onnx")
    places = ["--out", str(tmp_path / "out"), "--records", str(tmp_path / "r.db"), "--cost-model", "none"]
    done = CliRunner().invoke(app, ["tune", str(model), *places, *options])
    assert done.exit_code == 0, done.output
    assert given["target"] == target


def test_disturbances_are_told_where_there_were_any() -> None:
    quiet = {"disturbed": 0, "remeasured": 0, "causes": {}}
    assert "disturbed" not in summary({"disturbance": quiet}, Path("out"))
    busy = {"disturbed": 7, "remeasured": 3, "causes": {"preemption": 5, "stolen time": 2}}
    said = summary({"disturbance": busy}, Path("out"))
    assert "disturbed while timed: 7 candidates (preemption, stolen time); timed again: 3" in said


def test_what_the_contest_of_schedules_has_changed_is_told() -> None:
    contest = {"exchanged": ["conv2d", "pool"], "tasks": 20, "before_ms": 3.4, "after_ms": 3.2}
    said = summary({"in_place": contest}, Path("out"))
    assert "another schedule is faster for 2 of 20 tasks: 3.400 ms before, 3.200 ms after" in said
    assert "inside the network" not in summary({"in_place": None}, Path("out"))
