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


def passes_of(model: Any, x: Any) -> list[Any]:
    """The graphs of the forward and the backward pass of a step, as they are cut; gradients are those of eager mode."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func

    from tilewright.training.partition import partition

    graphs: list[Any] = []

    def keep(module: Any, _: Any) -> Any:
        graphs.append(module)
        return make_boxed_func(module.forward)

    torch.compiler.reset()
    eager = copy.deepcopy(model)
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, decompositions={}, partition_fn=partition)
    step(torch.compile(model, backend=backend), x)
    step(eager, x)
    for (name, parameter), other in zip(model.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    return graphs


def in_float64(model: Any) -> Any:
    """A copy of a model in float64."""
    return copy.deepcopy(model).double()


def worst_gradient(model: Any, exact: Any) -> float:
    """The largest difference of a gradient from that of ``exact``, relative to the largest of its parameter."""
    pairs = list(zip(model.parameters(), exact.parameters(), strict=True))
    return max(float((p.grad - e.grad).abs().max() / e.grad.abs().max()) for p, e in pairs)


class Residual(nn.Module):  # type: ignore[misc, name-defined]
    """A small ResNet: a block with an identity, and one with a stride and a projection. Winograd computes the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.start = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.same, self.same_norm = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.down, self.down_norm = nn.Conv2d(32, 48, 3, 2, 1, bias=False), nn.BatchNorm2d(48)
        self.project, self.head = nn.Conv2d(32, 48, 1, 2, bias=False), nn.Linear(48, 5)

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for images of 3 channels."""
        x = torch.max_pool2d(torch.relu(self.start(self.stem(x))), 3, 2, 1)
        x = torch.relu(x + self.same_norm(self.same(x)))
        x = torch.relu(self.project(x) + self.down_norm(self.down(x)))
        return self.head(x.mean((2, 3)))


class Inverted(nn.Module):  # type: ignore[misc, name-defined]
    """A small MobileNetV3: an inverted residual with squeeze-and-excitation and hardswish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.start = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.wide, self.wide_norm = nn.Conv2d(16, 48, 1, bias=False), nn.BatchNorm2d(48)
        self.depth, self.depth_norm = nn.Conv2d(48, 48, 5, 1, 2, groups=48, bias=False), nn.BatchNorm2d(48)
        self.squeeze, self.excite = nn.Conv2d(48, 16, 1), nn.Conv2d(16, 48, 1)
        self.narrow, self.narrow_norm = nn.Conv2d(48, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for images of 3 channels."""
        act = nn.functional.hardswish
        x = act(self.start(self.stem(x)))
        y = act(self.depth_norm(self.depth(act(self.wide_norm(self.wide(x))))))
        gate = self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        x = x + self.narrow_norm(self.narrow(y * nn.functional.hardsigmoid(gate)))
        return self.head(x.mean((2, 3)))


class Patches(nn.Module):  # type: ignore[misc, name-defined]
    """A small ViT: patches with places, a token for the class, and an encoder with dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, dropout, "gelu", batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for images of 16x16 pixels of 3 channels."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.norm(self.layer(x))[:, 0])


class Up(nn.Module):  # type: ignore[misc, name-defined]
    """A U-Net of two levels with a transposed convolution, which names its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.deep, self.up = nn.Conv2d(16, 32, 3, padding=1), nn.ConvTranspose2d(32, 16, 2, 2)
        self.join, self.head = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for the pixels of images of 3 channels."""
        x = torch.relu(self.norm(self.down(x)))
        y = self.up(torch.relu(self.deep(torch.max_pool2d(x, 2))))
        return self.head(torch.relu(self.join(torch.cat([x, y], 1)))).movedim(1, -1).flatten(0, -2)


class Layers(nn.Module):  # type: ignore[misc, name-defined]
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes."""
        return self.second(torch.relu(self.first(x)))


class Sequences(nn.Module):  # type: ignore[misc, name-defined]
    """Classifies sequences by an LSTM and layers. PyTorch compiles nothing of a function that calls an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.layers = nn.LSTM(8, 16, batch_first=True), Layers()

    def forward(self, x: Any) -> Any:
        """Scores of 5 classes for sequences of 8 numbers a token."""
        return self.layers(self.lstm(x)[0].mean(1))
