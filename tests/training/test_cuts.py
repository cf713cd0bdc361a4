"""Large parts are cut where one tensor crosses, and their backward parts follow the cuts."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.models import runs  # noqa: E402
from tests.training.models import in_float64, step, worst_gradient  # noqa: E402
from tilewright.training import cuts, optimize, report  # noqa: E402
from tilewright.training.backend import sessions  # noqa: E402
from tilewright.training.orders import Order, Request  # noqa: E402
from tilewright.training.proofs import Proofs  # noqa: E402

nn = torch.nn
pytestmark = [runs, pytest.mark.usefixtures("fresh")]


class Block(nn.Module):  # type: ignore[misc, name-defined]
    """A residual block with two convolutions and two norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(16, width, 1, bias=False), nn.Conv2d(width, 16, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(16)])

    def forward(self, x: Any) -> Any:
        """An image of the same shape."""
        return x + self.norms[1](self.second(torch.relu(self.norms[0](self.first(x)))))


class Blocks(nn.Module):  # type: ignore[misc, name-defined]
    """Blocks whose convolutions are all different."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*map(Block, widths))

    def forward(self, x: Any) -> Any:
        """A number for each channel."""
        return self.blocks(x).mean((2, 3))


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch, without_compiler: None) -> Any:
    """Parts of a model that is cut in two, which PyTorch runs, with its session."""
    monkeypatch.setattr(cuts, "_LEAST_KERNELS", 4)

    def make(widths: tuple[int, ...]) -> Any:
        model = Blocks(widths)
        exact = in_float64(model)
        compiled = optimize(model, mode="cached")
        x = torch.randn(2, 16, 12, 12)
        step(compiled, x)
        step(exact, x.double())
        assert worst_gradient(model, exact) < 1e-4
        session = next(each for each in sessions if not set(model.parameters()).isdisjoint(each.parameters))
        return [graph.parts for graph in session.graphs]

    return make


def test_a_backward_part_reads_what_one_forward_part_saves(cut: Any) -> None:
    forward, backward = cut((8, 24, 32, 48))
    assert (len(forward), len(backward)) == (2, 2)
    saved = [set(part.signature.gives) & set(backward[1 - place].signature.takes) for place, part in enumerate(forward)]
    assert all(saved)
    between = set(forward[0].signature.gives) & set(forward[1].signature.takes)
    assert len(between) == 1
    assert set(forward[0].signature.gives) & set(backward[0].signature.takes) <= between
    # The image that crosses, and its gradient, stay in blocks.
    for first, second in (forward, backward):
        names = set(first.signature.gives) & set(second.signature.takes)
        layouts = [layout for name, layout in zip(second.signature.takes, second.inputs, strict=True) if name in names]
        assert [bool(layout.block) for layout in layouts] == [True]


def test_equal_layers_are_not_cut(cut: Any) -> None:
    forward, backward = cut((8, 8, 8, 8))
    assert (len(forward), len(backward)) == (1, 1)


def test_parts_that_read_what_another_saves_are_prepared_after_it(cut: Any, tmp_path: Any) -> None:
    forward, backward = cut((8, 24, 32, 48))
    proofs = Proofs(tmp_path, 1, lambda *_: None, lambda _: None, lambda *_: None)  # type: ignore[arg-type, return-value]
    step = object()
    orders = [Order(Request(part.name, b"", (), ()), part, step=step) for part in (*forward, *backward)]
    for order in orders:
        proofs.expect(order)
    assert [order.part for order in proofs.sort(orders)] == [forward[0], backward[1], forward[1], backward[0]]


def test_steps_of_a_cut_model_are_right_while_its_parts_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "_LEAST_KERNELS", 4)
    model = Blocks((8, 24, 32, 48))
    exact = in_float64(model)
    compiled = optimize(model, mode="now", budget="1s")
    for number in range(4):
        x = torch.randn(2, 16, 12, 12)
        model.zero_grad()
        exact.zero_grad()
        step(compiled, x)
        step(exact, x.double())
        assert worst_gradient(model, exact) < 1e-4
        parts = report(model).parts
        assert len(parts) == 4
        assert {part.state for part in parts} == {"running"}
        if number == 1:
            copies = sum(part.copies for part in parts)
    assert sum(part.copies for part in parts) == copies
