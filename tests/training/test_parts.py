"""Steps are divided into one part a pass where they can be, and draw the same random numbers as in eager mode."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models import runs
from tests.training.models import Convolutions, Transformer, step, torch
from tilewright import optimize
from tilewright.training import report
from tilewright.training.parts import divide

nn = torch.nn
F = nn.functional


class Up(nn.Module):  # type: ignore[misc, name-defined]
    """A U-Net of one level, with means that grow and functions that are seldom used."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.up, self.head = nn.ConvTranspose2d(8, 8, 2, 2), nn.Linear(16, 5)
        self.frozen = nn.BatchNorm2d(8).eval()

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for images of 3 channels."""
        x = F.leaky_relu(self.norm(self.frozen(self.down(x))))
        y = self.up(F.avg_pool2d(x, 2)).clamp(-1, 1)
        x = torch.cat([torch.where(x > 0.5, x, F.elu(x)), F.silu(y)], 1)
        return self.head(F.pad(x, (1, 0))[:, :, 1:].mean((2, 3)))


def train(made: Any, *inputs: Any) -> tuple[Any, list[int], list[str]]:
    """A model after a step in PyTorch's kernels, the number of parts in each pass, and what stays beside them."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func

    counts: list[int] = []
    rest: list[str] = []

    def compile_graph(module: Any, examples: Any) -> Any:
        whole, parts = divide(module)
        counts.append(len(parts))
        rest.extend(str(node.target) for node in whole.graph.nodes if hasattr(node.target, "_schema"))
        return make_boxed_func(whole.forward)

    torch.compiler.reset()
    backend = aot_autograd(fw_compiler=compile_graph, bw_compiler=compile_graph, decompositions={})
    model = made()
    torch.manual_seed(0)
    step(torch.compile(model, backend=backend), *inputs)
    return model, counts, rest


@pytest.mark.parametrize(
    ("made", "shape", "left"),
    [
        (Convolutions, (2, 3, 12, 12), {"aten.add.Tensor"}),  # the number of batches
        (Transformer, (2, 7, 16), set()),
        (lambda: Transformer(0.5), (2, 7, 16), {"aten.empty_strided.default", "aten.bernoulli_.float"}),
        (Up, (2, 3, 8, 8), {"aten.empty.memory_format"}),
    ],
    ids=["convolutions", "transformer", "dropout", "up"],
)
def test_a_pass_is_one_part(made: Any, shape: tuple[int, ...], left: set[str]) -> None:
    torch.manual_seed(0)
    x = torch.randn(*shape)
    torch.manual_seed(1)
    model, counts, rest = train(made, x)
    assert counts == [1, 1]
    assert set(rest) == left
    torch.manual_seed(1)
    eager = made()
    torch.manual_seed(0)
    step(eager, x)
    for (name, parameter), other in zip(model.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_what_cannot_be_compiled_cuts_a_pass() -> None:
    class Cut(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            return self.second(torch.special.i0e(self.first(x)))

    _, counts, rest = train(Cut, torch.randn(2, 4))
    assert counts[0] == 2
    assert "aten.special_i0e.default" in rest


class Random(nn.Module):  # type: ignore[misc, name-defined]
    """Dropouts of several kinds, noise, and a choice that depends on the data."""

    def __init__(self, depends: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.channels, self.depends = nn.Dropout2d(0.3), depends

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for images of 3 channels."""
        x = F.dropout(self.channels(self.first(x)), 0.5)
        x = x * (torch.rand(len(x), 1, 1, 1) >= 0.2) + torch.randn_like(x)
        x = F.dropout(torch.bernoulli(torch.sigmoid(x)) * x if self.depends else x, 0.2)
        return F.dropout(self.second(x), 0.1).mean((2, 3))


@pytest.mark.parametrize(("depends", "parts"), [(False, 1), (True, 2)])
def test_random_numbers_are_drawn_in_the_order_of_eager_mode(depends: bool, parts: int) -> None:
    x = torch.randn(2, 3, 4, 4)
    torch.manual_seed(1)
    model, counts, _ = train(lambda: Random(depends), x)
    after = torch.rand(4)
    assert counts[0] == parts
    torch.manual_seed(1)
    eager = Random(depends)
    torch.manual_seed(0)
    step(eager, x)
    assert torch.equal(torch.rand(4), after)
    for (name, parameter), other in zip(model.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_what_has_no_elements_is_in_no_part() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def compute(x: Any, w: Any) -> Any:
        return (torch.relu(x @ w),)

    for rows, parts in ((4, 1), (0, 0)):
        module = make_fx(compute, tracing_mode="fake")(torch.randn(rows, 8), torch.randn(8, 8))
        assert len(divide(module)[1]) == parts


@runs
def test_attention_with_the_layout_of_pytorch() -> None:
    """PyTorch's attention gives its result in another order of dimensions, of which its module takes a view."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(32, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    x, compiled = torch.randn(4, 16, 32), optimize(model, mode="now", budget="1s")
    for _ in range(2):
        compiled(x).square().mean().backward()
    assert {part.state for graph in report(compiled).graphs for part in graph.parts} == {"running"}
