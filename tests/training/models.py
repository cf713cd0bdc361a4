"""Small models for training, and the comparison of their gradients with those of float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


class Convolutions(nn.Module):  # type: ignore[misc, name-defined]
    """Convolutions, one with a stride, a batch norm, a pooling, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.wide = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for images of 3 channels."""
        x = torch.relu(self.norm(self.first(x)))
        x = torch.max_pool2d(x, 3, 2, 1)
        x = torch.relu(self.wide(x))
        return self.head(x.mean((2, 3)))


class Digits(nn.Module):  # type: ignore[misc, name-defined]
    """A convolution and a linear layer for the digits of scikit-learn."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 16, 10)

    def forward(self, x: Any) -> Any:
        """Scores of 10 digits for images of 8 x 8 pixels."""
        return self.head(torch.max_pool2d(torch.relu(self.conv(x)), 2).flatten(1))


class Transformer(nn.Module):  # type: ignore[misc, name-defined]
    """A block of a transformer whose tokens see those before them, and a linear layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.before, self.between = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for sequences of 16 numbers a token."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.before(x)).reshape(batch, tokens, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.out(attended.transpose(1, 2).reshape(batch, tokens, width)))
        x = x + self.down(nn.functional.gelu(self.up(self.between(x))))
        return self.head(x.mean(1))


def step(model: Any, *inputs: Any) -> Any:
    """The loss of one step of training. Gradients are added to those of the parameters."""
    scores = model(*inputs)
    loss = nn.functional.cross_entropy(scores, torch.arange(len(scores)) % scores.shape[1])
    loss.backward()
    return loss.detach()


def in_float64(model: Any) -> Any:
    """A copy of a model in float64."""
    return copy.deepcopy(model).double()


def worst_gradient(model: Any, exact: Any) -> float:
    """The largest difference of a gradient from that of ``exact``, relative to the largest of its parameter."""
    pairs = list(zip(model.parameters(), exact.parameters(), strict=True))
    return max(float((p.grad - e.grad).abs().max() / e.grad.abs().max()) for p, e in pairs)
