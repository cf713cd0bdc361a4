"""Activations that are saved for the backward pass stay in blocks, and PyTorch can take over on either side."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.models import TARGET
from tests.training.models import in_float64, step, torch, worst_gradient
from tilewright.frontend.load import load_part
from tilewright.frontend.torch.part import Layout
from tilewright.graph.tasks import extract
from tilewright.training import optimize, report
from tilewright.training.backend import sessions

nn = torch.nn
pytestmark = pytest.mark.usefixtures("fresh")


class _Images(nn.Module):  # type: ignore[misc, name-defined]
    """Two convolutions, whose results are saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x: Any) -> Any:
        """Scores of 8 classes."""
        return self.second(torch.relu(self.first(x))).mean((2, 3))


def _count_saved(model: Any, x: Any) -> int:
    """The bytes that a forward pass saves besides the parameters."""
    saved = {}

    def pack(tensor: Any) -> Any:
        if not isinstance(tensor, nn.Parameter):
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = model(x)
    scores.sum().backward()
    return sum(saved.values())


def test_either_side_may_be_pytorch() -> None:
    model = _Images()
    exact = in_float64(model)
    compiled = optimize(model, mode="now", budget="1s")
    x = torch.randn(4, 16, 12, 12)

    def check() -> None:
        model.zero_grad()
        exact.zero_grad()
        step(compiled, x)
        step(exact, x.double())
        assert worst_gradient(model, exact) < 1e-4

    def copies() -> int:
        return sum(part.copies for graph in report(model).graphs for part in graph.parts)

    check()  # the forward pass proves its part, and gives PyTorch's plain tensors
    before = copies()
    check()
    assert copies() == before
    assert _count_saved(compiled, x) <= 1.1 * _count_saved(model, x)
    parameters = set(model.parameters())
    session = next(session for session in sessions if not parameters.isdisjoint(session.parameters))
    forward, backward = (graph.parts[0] for graph in session.graphs)
    assert any(layout.block for layout in forward.outputs)
    backward.leave("a test wants it")
    check()
    forward.leave("a test wants it")
    check()


@pytest.mark.parametrize("block", [0, 8])
def test_kernels_read_and_write_blocks_where_they_lie(block: int) -> None:
    layout = Layout((2, 16, 5, 5), (400, 25, 5, 1), "float32")
    blocks = dataclasses.replace(layout, block=block)

    class Part(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, w: Any) -> Any:
            return (torch.relu(torch.conv2d(torch.relu(x), w)),)

    weight = Layout((16, 16, 1, 1), (16, 1, 1, 1), "float32")
    target = dataclasses.replace(TARGET, lanes=8)
    plan = extract(load_part("part", torch.fx.symbolic_trace(Part()), [blocks, weight], [blocks]), target).plan
    assert plan is not None
    moves = [call.kernel for call in plan.calls if "transpose" in call.kernel and "relu" not in call.kernel]
    wanted = (2, 2, 5, 5, 8) if block else layout.shape
    assert [plan.tensors[number].shape for number in (plan.inputs[0], *plan.outputs)] == [wanted] * 2
    assert len(moves) == (1 if block else 3), moves  # the weight is packed, and plain images are


def test_results_that_are_moved_keep_no_memory_until_the_end() -> None:
    class Part(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, w: Any) -> Any:
            results = []
            for _ in range(8):
                x = torch.relu(torch.mm(x, w))
                results.append(x.reshape(64, 4, 16).permute(1, 0, 2).clone())
            return tuple(results)

    square, moved = Layout((64, 64), (64, 1), "float32"), Layout((4, 64, 16), (1024, 16, 1), "float32")
    plan = extract(load_part("part", torch.fx.symbolic_trace(Part()), [square] * 2, [moved] * 8), TARGET).plan
    assert plan is not None
    assert plan.used_bytes <= 4 * 64 * 64 * 4
