"""Saved views of one tensor: their source is saved instead, and gradients stay right."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.models import passes_of, torch

nn = torch.nn

#: Several layers have views of the same names.
_LAYERS = 3


class Attending(nn.Module):  # type: ignore[misc, name-defined]
    """Attention with queries, keys and values of one projection, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.join = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Any) -> Any:
        """Of tokens ``(n, tokens, 32)``: as many."""
        n, tokens, width = x.shape
        q, k, v = self.project(x).reshape(n, tokens, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        result = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.join(result.transpose(1, 2).reshape(n, tokens, width))


class Mean(nn.Module):  # type: ignore[misc, name-defined]
    """The mean over all tokens of what another module gives."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        """Of tokens ``(n, tokens, 32)``: ``(n, 32)``."""
        return self.module(x).mean(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(*(Attending() for _ in range(_LAYERS))),
        lambda: nn.Sequential(
            *(nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True, norm_first=True) for _ in range(_LAYERS))
        ),
    ],
    ids=["one projection", "PyTorch's layer"],
)
def test_the_source_of_several_views_is_saved(make: Any) -> None:
    torch.manual_seed(0)
    graphs = passes_of(Mean(make()), torch.randn(4, 10, 32))
    taken = [node.meta["val"] for node in graphs[1].graph.nodes if node.op == "placeholder"]
    assert sum(value.numel() == 4 * 10 * 96 for value in taken) == _LAYERS  # queries, keys and values are one tensor
    assert all(value.shape != (4, 2, 10, 16) or value.stride()[-1] == 1 for value in taken)
    heads = [value for value in taken if value.dim() == 4 and value.numel() == 4 * 10 * 32]
    assert len(heads) <= _LAYERS, [tuple(value.shape) for value in heads]  # the attention's result, once in each layer
