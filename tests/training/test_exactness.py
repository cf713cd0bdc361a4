"""Gradients are those of float64 to 1e-4 of the largest, and weights to 1e-3 after 50 steps, in all kinds of models."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models import runs
from tests.training.models import Inverted, Patches, Residual, Sequences, Up, in_float64, step, torch, worst_gradient
from tilewright.training import optimize, report
from tilewright.training.live import LivePart

pytestmark = [
    runs,
    pytest.mark.usefixtures("fresh"),
    # torch.compile looks at the gradient of what the LSTM gives to the layers.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

#: The network, and the shape of its inputs.
NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "resnet": (Residual, (4, 3, 24, 24)),
    "mobilenet": (Inverted, (4, 3, 16, 16)),
    "vit with dropout": (lambda: Patches(0.2), (4, 3, 16, 16)),
    "unet": (Up, (2, 3, 16, 16)),
    "lstm": (Sequences, (4, 6, 8)),
}
STEPS = 50


@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_as_exact_as_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, shape = NETWORKS[name]
    monkeypatch.setattr(LivePart, "slower", False)  # our kernels run even where PyTorch's are faster
    model = made()
    # What is float64 runs in PyTorch. The backend draws the masks of its dropouts as it draws ours. Both have the same
    # options, so that one process compiles. Another one would have nothing to do.
    exact = in_float64(model)
    pair = [(optimize(m, mode="now", budget="1s"), d) for m, d in ((model, torch.float32), (exact, torch.float64))]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (model, exact)]
    for number in range(STEPS):
        x = torch.randn(*shape)
        for (compiled, dtype), optimizer in zip(pair, optimizers, strict=True):
            torch.manual_seed(number)
            optimizer.zero_grad()
            step(compiled, x.to(dtype))
        if number == 0:
            assert worst_gradient(model, exact) < 1e-4
        for optimizer in optimizers:
            optimizer.step()
    for ours, wanted in zip(model.parameters(), exact.parameters(), strict=True):
        assert float((ours - wanted).detach().abs().max()) < 1e-3 * float(wanted.detach().abs().max())
    parts = [part for graph in report(model).graphs for part in graph.parts]
    assert len(report(model).graphs) == 2
    assert all(part.state == "running" and part.ours == STEPS for part in parts), parts
