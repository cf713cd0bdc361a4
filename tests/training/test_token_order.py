"""Saved activations of tokens that PyTorch's attention layers transpose keep the order before; gradients stay right."""

from __future__ import annotations

from typing import Any

from tests.training.models import passes_of, torch

nn = torch.nn

_LAYERS = 2


class Encoder(nn.Module):  # type: ignore[misc, name-defined]
    """The mean over all tokens of what PyTorch's encoder layers give."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        options = {"batch_first": batch_first, "norm_first": True}
        self.layers = nn.Sequential(*(nn.TransformerEncoderLayer(32, 2, 64, 0.0, **options) for _ in range(_LAYERS)))

    def forward(self, x: Any) -> Any:
        """Of tokens ``(n, tokens, 32)``: ``(n, 32)``."""
        return self.layers(x).mean(1)


def taken_by(model: Any) -> list[Any]:
    """What the backward pass takes."""
    torch.manual_seed(0)
    _, backward = passes_of(model, torch.randn(4, 10, 32))
    return [node.meta["val"] for node in backward.graph.nodes if node.op == "placeholder"]


def test_tokens_are_saved_in_the_order_in_which_they_came() -> None:
    taken = taken_by(Encoder(batch_first=True))
    shapes = [tuple(value.shape) for value in taken]
    assert shapes.count((4, 10, 96)) == shapes.count((4, 10, 2, 16)) == _LAYERS  # projections, results of attention
    assert shapes.count((4, 10, 32)) >= 2 * _LAYERS  # what is normalised and projected, and what both norms take
    assert not any(shape[0] == 10 for shape in shapes), shapes
    assert all(value.is_contiguous() for value in taken if value.numel() >= 4 * 10 * 32)


def test_tokens_that_nobody_transposes_are_saved_as_they_are() -> None:
    shapes = [tuple(value.shape) for value in taken_by(Encoder(batch_first=False))]
    assert not any(shape[:2] == (10, 4) for shape in shapes), shapes
