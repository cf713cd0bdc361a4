"""A model that a node tunes for the command: what goes there, and what comes back. This process stands for Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
import typer

from tests.fleet.here import toy_fleet
from tests.models import conv_model, normal, runs
from tests.tuning.replay import TARGET
from tilewright.cli.away import tune_away
from tilewright.cli.boundary import command
from tilewright.cli.fleet import Cluster
from tilewright.cli.tuning import MethodNames, TuneOptions
from tilewright.cli.verbosity import Verbosity
from tilewright.executable.executable import load_executable
from tilewright.fleet.away import Away
from tilewright.fleet.outpost import Outpost
from tilewright.fleet.wire import kind_of
from tilewright.records.fallback import FallbackStore
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query
from tilewright.tuning.budget import Budget
from tilewright.tuning.progress import SilentProgress, TuneState

pytestmark = runs


class Post(Outpost):
    """An outpost of this process. It knows of no cluster, so that its job measures by itself."""

    def address(self) -> str:
        return ""


class Noting(SilentProgress):
    """What people are shown."""

    def __init__(self) -> None:
        self.states: list[TuneState] = []
        self.lines: list[str] = []

    def update(self, state: TuneState) -> None:
        self.states.append(state)

    def announce(self, lines: Sequence[str], *, detail: bool = False) -> None:
        self.lines += lines


def options_for(model: Path) -> TuneOptions:
    names, out = MethodNames(cost_model="none"), model.with_name("out")
    return TuneOptions(model, out, Budget(trials=3), "native", None, 0, names, verbosity=Verbosity.NORMAL)


def test_the_model_goes_there_and_the_executable_comes_back(tmp_path: Path) -> None:
    model = conv_model(tmp_path / "m.onnx")
    (tmp_path / "weights").mkdir()
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="weights/m.data", size_threshold=0)
    store, progress = FallbackStore(MemoryStore()), Noting()
    with toy_fleet("one") as (fleet, _):
        away = Away(fleet, kind_of(TARGET), lambda node, cores: Post(cores))
        report, _ = tune_away(options_for(model), Cluster(""), away, store, progress)
    assert report.verdict is not None
    assert report.verdict.outcome.value == "right"
    assert report.trials == progress.states[-1].trials == len(list(store.scan(Query()))) > 0
    assert any("task" in line for line in progress.lines)
    assert store.tasks()
    (y,) = load_executable(tmp_path / "out")(normal(1, 8, 10, 10))
    assert np.isfinite(y).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "out", "weights"]


@pytest.mark.parametrize("debugging", [False, True])
def test_a_bug_on_the_node_is_one_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], debugging: bool
) -> None:
    options = replace(options_for(conv_model(tmp_path / "m.onnx")), seed=cast("int", "no number"))

    @command
    def run() -> None:
        with toy_fleet("one") as (fleet, _):
            away = Away(fleet, kind_of(TARGET), lambda node, cores: Post(cores))
            tune_away(options, Cluster(""), away, FallbackStore(MemoryStore()), SilentProgress())

    monkeypatch.setenv("TILEWRIGHT_DEBUG", str(int(debugging)))
    if debugging:
        with pytest.raises(RuntimeError, match=r"(?s)ended with TypeError: .*Traceback.*run_tuning"):
            run()
        return
    with pytest.raises(typer.Exit) as caught:
        run()
    assert caught.value.exit_code == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: RuntimeError: a job on a node ended with TypeError: ")
    assert second.startswith("this is a bug in Tilewright")
