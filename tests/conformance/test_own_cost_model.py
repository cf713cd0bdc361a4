"""The examples of the page about cost models are run, and held to the contract like the project's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.conformance import test_cost_models
from tests.pages import MINE, ROOT, conformance, names, programs
from tests.toys import ToySpace, plain
from tests.tuning.replay import TARGET, Replay, bowl, task
from tilewright import MemoryStore, TaskTuner

MODEL, TRIAL, METHOD = programs("how-to/write-your-own-cost-model.md")


@pytest.mark.parametrize(
    ("check", "arguments"),
    [case for case in conformance(test_cost_models, "model") if "another_process" not in str(case.id)],
)
def test_the_model_keeps_the_contract(
    check: Callable[..., None], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = names(MODEL)["KernelRidge"]
    monkeypatch.setitem(test_cost_models.COST_MODELS, MINE, lambda seed: make())
    check(**arguments)


def test_the_trial(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(ROOT)
    names(MODEL, TRIAL)
    name, accuracy = capsys.readouterr().out.split()
    assert name == "dense-512x512x512"
    assert float(accuracy) > 0.75


def test_the_method_finds_the_best() -> None:
    space = ToySpace(plain(5, 6, 7), lambda c: np.asarray(c.sum(axis=1) % 2 == 0), task=task("small"))
    store = MemoryStore()
    runner = Replay(store, {"small": bowl})
    method = names(MODEL, METHOD)["METHOD"]
    tuner = TaskTuner(space, TARGET, runner, store, np.random.default_rng(0), method)
    while not tuner.exhausted and tuner.trials < 48:
        tuner.round(16, float("inf"))
    assert tuner.best_seconds == pytest.approx(1e-3)
