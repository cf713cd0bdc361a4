"""Models that train with the backend ``tilewright`` have PyTorch's gradients, whatever is compiled of them."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from tests.training.models import Convolutions, Transformer, in_float64, step, torch, worst_gradient
from tilewright.training import optimize, report

nn = torch.nn
pytestmark = pytest.mark.usefixtures("fresh")

#: Options with which a model is compiled before its first step, and not tuned.
NOW = {"mode": "now", "budget": "1s"}


@pytest.mark.parametrize(
    ("made", "shape"), [(Convolutions, (4, 3, 12, 12)), (Transformer, (3, 7, 16))], ids=["convolutions", "transformer"]
)
def test_gradients_are_those_of_float64(made: Any, shape: tuple[int, ...]) -> None:
    model = made()
    exact = in_float64(model)
    compiled = torch.compile(model, backend="tilewright", options=NOW)
    for number in range(3):
        x = torch.randn(*shape)
        model.zero_grad()
        exact.zero_grad()
        loss = step(compiled, x)
        assert float(loss) == pytest.approx(float(step(exact, x.double())), rel=1e-5), number
        assert worst_gradient(model, exact) < 1e-4, number
    for buffer, wanted in zip(model.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(buffer.double(), wanted.double(), rtol=1e-4, atol=1e-5)
    graphs = report(model).graphs
    assert [graph.kind for graph in graphs] == ["forward", "backward"]
    for part in (part for graph in graphs for part in graph.parts):
        # The first run proves an executable, and the others use it.
        assert (part.state, part.ours, part.theirs) == ("running", 3, 1), part


def test_a_model_trains_in_pytorch_until_its_kernels_are_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.training.worker.PREPARING", 0.0)  # the process need not wait for its slots
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    exact = in_float64(model)
    compiled = optimize(model, budget="1s")
    x = torch.randn(4, 8)
    states: set[str] = set()
    end = time.monotonic() + 300
    while states != {"running"} and time.monotonic() < end:
        model.zero_grad()
        exact.zero_grad()
        step(compiled, x)
        step(exact, x.double())
        assert worst_gradient(model, exact) < 1e-4
        states = {part.state for graph in report(model).graphs for part in graph.parts}
        time.sleep(0.05)
    assert states == {"running"}
    first = report(model).graphs[0].parts[0]
    assert first.theirs >= 1
    assert first.ours >= 1


@pytest.mark.parametrize("given", [{"options": {"budgets": "5m"}}, {"mode": "max-autotune"}], ids=["name", "mode"])
def test_what_the_backend_does_not_know_trains_as_in_eager(
    given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(4, 3)
    compiled = torch.compile(model, backend="tilewright", **given)
    with caplog.at_level(logging.WARNING, "tilewright.training"):
        step(compiled, torch.randn(2, 4))
    assert model.weight.grad is not None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "trains as without tilewright" in caplog.text
    assert report(model).graphs == ()


def test_inference_gives_what_eager_gives() -> None:
    model = Convolutions().eval()
    x = torch.randn(4, 3, 12, 12)
    wanted = model(x).detach()
    compiled = optimize(model, **NOW)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(x), wanted, rtol=1e-4, atol=1e-5)
    graphs = report(model).graphs
    assert [graph.kind for graph in graphs] == ["inference"]


def test_what_cannot_be_prepared_stays_with_pytorch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "/missing/compiler")
    monkeypatch.setenv("PATH", "")
    model = nn.Linear(8, 5)
    exact = in_float64(model)
    x = torch.randn(4, 8)
    with caplog.at_level(logging.WARNING, "tilewright.training"):
        step(optimize(model, mode="now", budget="2s"), x)
    step(exact, x.double())
    assert worst_gradient(model, exact) < 1e-4
    parts = [part for graph in report(model).graphs for part in graph.parts]
    assert parts
    assert all(part.state == "left" and "compiler" in part.reason for part in parts)
    assert len(caplog.records) == len(parts)
