"""Gradients of graphs that write to their arguments, or give what lies in the memory of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.training.models import in_float64, torch, worst_gradient
from tilewright.training import optimize

nn = torch.nn
pytestmark = pytest.mark.usefixtures("fresh", "without_compiler")


class Head(nn.Module):  # type: ignore[misc, name-defined]
    """A linear layer, and what else is done with its data.

    Args:
        use: gets the layer and its data.
    """

    def __init__(self, use: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.layer, self.use = nn.Linear(16, 5), use

    def forward(self, x: Any) -> Any:
        """What ``use`` gives."""
        return self.use(self.layer, x)


def write(layer: Any, x: Any) -> Any:
    return layer(x.mul_(2))


def add_layer(layer: Any, x: Any) -> Any:
    x[:, :5].add_(layer(x.clone()))
    return x.sum()


def view_argument(layer: Any, x: Any) -> Any:
    return layer(x.clone()), x.view(-1)


def view_result(layer: Any, x: Any) -> Any:
    y = layer(x)
    return y, y.view(-1)


# PyTorch looks at the gradient of an argument that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("use", [write, add_layer, view_argument, view_result])
def test_what_autograd_sees_of_memory_is_what_it_sees_in_eager_mode(use: Callable[[Any, Any], Any]) -> None:
    model = nn.Sequential(nn.Linear(3, 16), Head(use))
    exact = in_float64(model)
    compiled = optimize(model[1])
    z = torch.randn(4, 3)
    for weights, head in ((model, compiled), (exact, exact[1])):
        x = weights[0](z.to(weights[0].weight.dtype))
        if use is add_layer:
            x = x.clone()
        results = head(x)
        if isinstance(results, tuple):
            results[1].mul_(2)
            results = results[0]
        (results.square().sum() + x.square().sum()).backward()
    assert worst_gradient(model, exact) < 1e-5


def test_what_pytorch_refuses_to_compile_runs_as_in_eager_mode(caplog: pytest.LogCaptureFixture) -> None:
    """Data are changed that the gradient of the weights needs. In eager mode only the backward pass fails."""

    def spoil(layer: Any, x: Any) -> Any:
        y = layer(x)
        x.add_(1)
        return torch.relu(y)

    head = Head(spoil)
    x = torch.randn(4, 16)
    wanted = torch.relu(head.layer(x)).detach()
    with pytest.warns(UserWarning, match="Error detected in AddmmBackward0"):  # PyTorch's, while it traces
        found = optimize(head)(x)
    torch.testing.assert_close(found, wanted)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()
    assert "trains as without tilewright: one of the variables" in caplog.text
