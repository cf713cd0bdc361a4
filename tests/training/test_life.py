"""The life of a training run: what users do to a model between and inside steps, with the gradients of float64."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.models import runs  # noqa: E402
from tilewright import optimize  # noqa: E402
from tilewright.training import report  # noqa: E402

nn = torch.nn
pytestmark = runs


class Net(nn.Module):  # type: ignore[misc, name-defined]
    """A convolution, a batch norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16 * 36, 5)

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for images of 8 x 8 pixels."""
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


def make() -> tuple[Any, Any]:
    """A model, and the same one in float64."""
    torch.manual_seed(0)
    model = Net()
    exact = Net().double()
    exact.load_state_dict(model.state_dict())
    return model, exact


def loss(model: Any, x: Any) -> Any:
    x = x.to(next(model.parameters()).dtype)
    return nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 5)


def agree(model: Any, exact: Any) -> None:
    """The weights and gradients of a model are those of float64."""
    for (name, ours), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        for found, wanted in ((ours, theirs), (ours.grad, theirs.grad)):
            assert (found is None) == (wanted is None), name
            if found is not None:
                found, wanted = found.detach().double(), wanted.detach()
                assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max()), name


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of the backend."""
    found = (record for record in caplog.records if record.name == "tilewright.training")
    return [record.getMessage() for record in found if record.levelname == "WARNING"]


@pytest.fixture(scope="module")
def compiled() -> tuple[Any, Any, Any]:
    """A model whose steps run in our kernels, that model before it was compiled, and the same one in float64."""
    model, exact = make()
    return optimize(model, mode="now", budget="1s"), model, exact


def test_steps_with_all_that_users_do(compiled: tuple[Any, Any, Any]) -> None:
    """Accumulated and clipped gradients, changing rates, saved and loaded weights, hooks on gradients."""
    fast, model, exact = compiled
    calls: list[int] = []
    hook = model.conv.weight.register_hook(lambda _: calls.append(1))
    pairs = [(fast, model), (exact, exact)]
    optimizers = [torch.optim.SGD(weights.parameters(), lr=0.1, momentum=0.9) for _, weights in pairs]
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(8, 3, 8, 8)
    for step in range(4):
        for (called, weights), optimizer in zip(pairs, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            loss(called, x).backward()
            loss(called, x.flip(0)).backward()
            nn.utils.clip_grad_norm_(weights.parameters(), 0.5)
            optimizer.step()
        agree(model, exact)
    assert len(calls) == 8
    hook.remove()
    for weights in (model, exact):
        weights.load_state_dict(saved)
        weights.zero_grad()
    for called in (fast, exact):
        loss(called, x).backward()
    agree(model, exact)


def test_second_derivatives(compiled: tuple[Any, Any, Any]) -> None:
    """A penalty on gradients, which AOTAutograd alone refuses. The statistics of the norm move once."""
    fast, model, exact = compiled
    x = torch.randn(8, 3, 8, 8)
    for called, weights in ((fast, model), (exact, exact)):
        weights.zero_grad()
        before = int(weights.norm.num_batches_tracked)
        given = x.to(next(weights.parameters()).dtype).requires_grad_()
        (slope,) = torch.autograd.grad(called(given).square().sum(), given, create_graph=True)
        slope.square().sum().backward()
        assert int(weights.norm.num_batches_tracked) == before + 1
    agree(model, exact)
    torch.testing.assert_close(model.norm.running_var.double(), exact.norm.running_var, rtol=1e-5, atol=1e-6)


def test_retained_graphs(compiled: tuple[Any, Any, Any]) -> None:
    fast, model, exact = compiled
    x = torch.randn(8, 3, 8, 8)
    for called, weights in ((fast, model), (exact, exact)):
        weights.zero_grad()
        found = loss(called, x)
        found.backward(retain_graph=True)
        found.backward()
    agree(model, exact)


def test_evaluation_between_steps(compiled: tuple[Any, Any, Any]) -> None:
    fast, model, exact = compiled
    x = torch.randn(8, 3, 8, 8)
    for called, weights in ((fast, model), (exact, exact)):
        weights.zero_grad()
        loss(called, x).backward()
        weights.eval()
    with torch.no_grad():
        assert float((fast(x) - exact(x.double())).abs().max()) < 1e-3
    for called, weights in ((fast, model), (exact, exact)):
        weights.train()
        loss(called, x).backward()
    agree(model, exact)


def _checkpointed(model: Any) -> Callable[[Any], Any]:
    from torch.utils.checkpoint import checkpoint

    return lambda x: checkpoint(model, x, use_reentrant=False)


def test_gradient_checkpointing() -> None:
    """What is computed anew in the backward pass moves no statistics."""
    model, exact = make()
    fast = torch.compile(_checkpointed(model), backend="tilewright", options={"mode": "now", "budget": "1s"})
    x = torch.randn(8, 3, 8, 8)
    for _ in range(2):
        model.zero_grad()
        exact.zero_grad()
        target = torch.arange(8) % 5
        nn.functional.cross_entropy(fast(x), target).backward()
        nn.functional.cross_entropy(exact(x.double()), target).backward()
        agree(model, exact)
    torch.testing.assert_close(model.norm.running_var.double(), exact.norm.running_var, rtol=1e-5, atol=1e-6)


def test_autocast_stays_with_pytorch_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = make()
    fast = optimize(model, mode="now", budget="1s")
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            found = fast(torch.randn(8, 3, 8, 8))
        assert found.dtype == torch.bfloat16
        found.float().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    said = messages(caplog)
    assert len(said) == 2
    for kind, text in zip(("forward", "backward"), said, strict=True):
        assert text.startswith(f"all of the {kind} pass stays with PyTorch: ")
        assert "computes in bfloat16" in text


class Perceptron(nn.Module):  # type: ignore[misc, name-defined]
    """Two products, whose steps compile in a second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for 8 numbers."""
        return self.second(torch.relu(self.first(x)))


def make_perceptron() -> tuple[Any, Any, Any]:
    """A perceptron that is compiled, itself, and the same one in float64."""
    torch.compiler.reset()
    torch.manual_seed(0)
    model = Perceptron()
    exact = Perceptron().double()
    exact.load_state_dict(model.state_dict())
    return optimize(model, mode="now", budget="1s"), model, exact


def train(fast: Any, model: Any, exact: Any, batch: int) -> None:
    """A step, whose gradients must be right."""
    x = torch.randn(batch, 8)
    for called, weights in ((fast, model), (exact, exact)):
        weights.zero_grad()
        loss(called, x).backward()
    agree(model, exact)


def count(model: Any) -> list[tuple[str, int]]:
    """The kinds of a model's graphs, and how often their parts ran in our kernels."""
    return [(graph.kind, graph.parts[0].ours) for graph in report(model).graphs]


def test_a_last_smaller_batch(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first graph stays in our kernels. PyTorch runs a further one until it has come often enough."""
    monkeypatch.setattr("tilewright.training.further._WORTHWHILE", 3)
    fast, model, exact = make_perceptron()
    for batch in (8, 8, 5, 8, 5, 3, 8):
        train(fast, model, exact, batch)
    assert sorted(count(model)) == [("backward", 4), ("forward", 4)]
    for batch in (5, 5, 5, 8, 3):
        train(fast, model, exact, batch)
    assert sorted(count(model)) == [("backward", 2), ("backward", 5), ("forward", 2), ("forward", 5)]
    assert messages(caplog) == []


def test_sizes_that_were_marked_as_dynamic_stay_open(caplog: pytest.LogCaptureFixture) -> None:
    fast, model, exact = make_perceptron()
    for batch in (8, 7, 6):
        x = torch.randn(batch, 8)
        torch._dynamo.mark_dynamic(x, 0)
        for called, weights in ((fast, model), (exact, exact)):
            weights.zero_grad()
            loss(called, x).backward()
        agree(model, exact)
    assert count(model) == []
    assert messages(caplog) == [
        "a graph of a further batch size stays with PyTorch: a size was marked as dynamic, and kernels are compiled "
        "for fixed sizes"
    ]


def test_frozen_layers_and_hooks_on_modules() -> None:
    fast, model, exact = make_perceptron()
    seen: list[int] = []
    hooks = [each.second.register_forward_hook(lambda *_: _[2] * 2) for each in (model, exact)]
    hooks.append(model.first.register_forward_pre_hook(lambda *_: seen.append(1)))
    for weights in (model, exact):
        weights.first.requires_grad_(False)
    train(fast, model, exact, 8)
    train(fast, model, exact, 8)
    assert model.first.weight.grad is None
    for hook in hooks:
        hook.remove()
    for weights in (model, exact):
        weights.first.requires_grad_()
    train(fast, model, exact, 8)
    assert model.first.weight.grad is not None
    assert seen


def test_what_was_saved_is_loaded_without_the_backend(compiled: tuple[Any, Any, Any], tmp_path: Path) -> None:
    fast, model, exact = compiled
    x = torch.randn(8, 3, 8, 8)
    optimizer = torch.optim.Adam(model.parameters())
    loss(fast, x).backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt")
    plain = Net()
    plain.load_state_dict(saved["model"])
    torch.optim.Adam(plain.parameters()).load_state_dict(saved["optimizer"])
    for weights in (model, exact):
        weights.zero_grad()
    exact.load_state_dict(saved["model"])
    torch.testing.assert_close(plain(x), fast(x), rtol=1e-4, atol=1e-5)


def test_a_disk_without_room_leaves_all_to_pytorch(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tilewright.training.worker._workers", {})
    monkeypatch.setattr("tilewright.training.worker.make_folder", refuse)
    fast, model, exact = make_perceptron()
    for _ in range(2):
        train(fast, model, exact, 8)
    parts = [part for graph in report(model).graphs for part in graph.parts]
    assert {part.state for part in parts} == {"left"}
    said = messages(caplog)
    assert len(said) == len(parts)
    assert all("No space left on device" in text for text in said)
