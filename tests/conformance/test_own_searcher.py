"""The examples of the page about searchers are run, and held to the contract like the project's own."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conformance import test_samplers, test_searchers
from tests.conformance.test_searchers import SPACES
from tests.pages import MINE, conformance, names, programs
from tests.toys import ToySpace, plain
from tests.tuning.replay import TARGET, Replay, bowl, task
from tilewright.records.memory import MemoryStore
from tilewright.target import Target

SEARCHER, METHOD, MACHINE, SAMPLER = programs("how-to/write-your-own-searcher.md")
SPACE = ToySpace(plain(5, 6, 7), lambda c: np.asarray(c.sum(axis=1) % 2 == 0), task=task("small"))


@pytest.mark.parametrize(("check", "arguments"), conformance(test_searchers, "searcher"))
def test_the_searcher_keeps_the_contract(
    check: Callable[..., None], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = names(SEARCHER)["HillClimb"]
    monkeypatch.setitem(test_searchers.SEARCHERS, MINE, lambda space, rng, scorer: make(space, rng))
    check(**arguments)


@pytest.mark.parametrize("space", ["one knob", "one config", "half valid"])
def test_the_sampler_keeps_the_contract(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = names(SEARCHER, SAMPLER)["OneOfEach"]
    monkeypatch.setitem(test_samplers.SAMPLERS, MINE, lambda space, rng, measured: make())
    monkeypatch.setattr(test_samplers, "SPARING", {MINE})
    for searcher in test_searchers.SEARCHERS:
        test_samplers.check_all_is_measured_once(searcher, MINE, SPACES[space], 0, works=True)
    for value in (np.nan, np.inf, -np.inf, 0.0):
        test_samplers.test_scores_without_meaning_are_survived(MINE, value)
    test_samplers.test_nan_is_never_better_than_a_prediction(MINE)


def test_the_searcher_is_short() -> None:
    assert len(SEARCHER.splitlines()) < 30


def test_the_trial_finds_the_best() -> None:
    store = MemoryStore()
    runner = Replay(store, {"small": bowl})
    tuner = names(SEARCHER, METHOD)["tuned"](SPACE, TARGET, runner, store, 60.0)
    assert tuner.exhausted
    assert tuner.trials == 105
    assert tuner.best_seconds == pytest.approx(1e-3)


def test_the_program_for_this_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Pool(Replay):
        """Replays, with what the page uses of a pool."""

        def __init__(self, target: Target, on_measurement: Callable[[Any], None]) -> None:
            assert target is TARGET
            super().__init__(MemoryStore(), {"small": bowl})

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("tilewright.measure.pool.LocalPool", Pool)
    monkeypatch.setattr("tilewright.frontend.load.load", lambda path: path)
    monkeypatch.setattr(
        "tilewright.graph.tasks.extract",
        lambda network, target: SimpleNamespace(uses=[SimpleNamespace(task=SPACE.task)]),
    )
    monkeypatch.setattr("tilewright.ops.registry.make_space", lambda task, target: SPACE)
    monkeypatch.setattr(Target, "parse", lambda: TARGET)
    names(SEARCHER, METHOD, MACHINE)
    assert capsys.readouterr().out.startswith("the task small 105 0.001")
