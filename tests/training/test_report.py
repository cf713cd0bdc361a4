"""What a report says, as text too, and of which models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.training.clocks import Clock
from tests.training.models import Layers, Sequences, step, torch
from tilewright.errors import TilewrightError
from tilewright.training import GraphReport, KernelShare, PartReport, TrainingReport, optimize, report
from tilewright.training.worker import Worker

pytestmark = pytest.mark.usefixtures("fresh")


@pytest.mark.usefixtures("without_compiler")
def test_models_of_one_class_share_their_graphs_and_each_is_reported() -> None:
    models = [Layers(), Layers()]
    fast = [optimize(model, mode="now", budget="1s") for model in models]
    for compiled in (*fast, *fast):
        step(compiled, torch.randn(4, 16))
    first, second = map(report, fast)
    assert [(graph.kind, graph.steps) for graph in first.graphs] == [("forward", 4), ("backward", 4)]
    assert str(first) == str(second)
    assert report(Layers()).graphs == ()
    lines = str(first).splitlines()
    assert lines[0] == "forward pass: 4 runs, 0 operators beside the parts in PyTorch"
    assert lines[1].startswith("  forward part 0: left, 5 operators; 0 runs in our kernels, 4 runs (")
    assert "No space left on device" in lines[2]


def test_models_with_equal_options_have_step_lengths_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation does not count."""
    clock = Clock()
    monkeypatch.setattr("tilewright.training.slots.time", clock)
    for method in ("start", "enqueue"):  # PyTorch runs all parts
        monkeypatch.setattr(Worker, method, lambda *_: None)
    models = [Layers(), torch.nn.Sequential(torch.nn.Linear(16, 5), torch.nn.ReLU())]
    fast = [optimize(model, budget="4m") for model in models]
    with torch.no_grad():
        for _ in range(3):
            fast[0].eval()(torch.randn(4, 16))
            clock.now += 0.125
    for compiled, seconds in zip(fast, (1.0, 0.25), strict=True):
        for _ in range(6):
            step(compiled.train(), torch.randn(4, 16))
            clock.now += seconds
    with torch.no_grad():
        for _ in range(40):
            fast[0].eval()(torch.randn(4, 16))
            clock.now += 0.125
    found = [(each.before_seconds, each.now_seconds) for each in map(report, fast)]
    assert found == [(1.0, 1.0), (0.25, 0.25)]


def test_a_part_that_runs_is_shown_with_its_times_and_heaviest_kernels() -> None:
    kernels = tuple(KernelShare(f"k{number}", 1e-3, share) for number, share in enumerate((0.6, 0.2, 0.15, 0.05)))
    part = PartReport("part", "running", "", ("mm.default",), 1, 2, 0, 2e-3, float("nan"), False, kernels)
    for slower, state in ((False, "running"), (True, "PyTorch is faster")):
        shown = TrainingReport((GraphReport("backward", 3, (replace(part, slower=slower),), 1),))
        assert str(shown).splitlines() == [
            "backward pass: 3 runs, 1 operator beside the parts in PyTorch",
            f"  part: {state}, 1 operator; 1 run (2 ms) in our kernels, 2 runs in PyTorch",
            "     60 % k0",
            "     20 % k1",
            "     15 % k2",
        ]


def test_a_model_without_graphs_has_a_report_that_says_why() -> None:
    model = Sequences()
    assert "has not run yet" in str(report(model))
    assert "an LSTM" in str(report(model))


@pytest.mark.parametrize("given", [lambda x: x, None], ids=["function", "nothing"])
def test_what_is_no_model_has_no_report(given: Any) -> None:
    with pytest.raises(TilewrightError, match="the module whose parameters are trained"):
        report(given)
