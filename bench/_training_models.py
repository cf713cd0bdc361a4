"""Networks to train, with a batch of inputs and a loss: timm's, and small ones of PyTorch alone."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bench._packages import default_cache, fetch_package
from bench._stand_ins import accept_missing

__all__ = ["BATCH", "OWN", "Training", "make_training"]

_TIMM = "timm==1.0.31"
#: The inputs of a batch, unless somebody asks for fewer.
BATCH = 16
_SIDE, _CLASSES = 224, 1000
_TOKENS, _WIDTH, _WORDS = 128, 256, 1000


@dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes:
        module: in its mode for training.
        inputs: of a batch.
        target: what the loss compares the module's output with.
        images: whether the inputs are images, which may have their channels last.
    """

    module: nn.Module
    inputs: torch.Tensor
    target: torch.Tensor
    images: bool

    def find_loss(self, output: torch.Tensor) -> torch.Tensor:
        """The cross entropy of the module's output, a number."""
        return nn.functional.cross_entropy(output.flatten(0, -2), self.target.flatten())


class Encoder(nn.Module):  # type: ignore[misc]
    """A transformer encoder of 4 layers, width 256 and 4 heads, that names each of its 128 tokens."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(_WIDTH, 4, 4 * _WIDTH, dropout, "gelu", batch_first=True, norm_first=True)
        self.embedding = nn.Embedding(_WORDS, _WIDTH)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(_WIDTH, _WORDS)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Words ``(n, 128)`` --> logits ``(n, 128, 1000)``."""
        logits: torch.Tensor = self.head(self.layers(self.embedding(words)))
        return logits


class UNet(nn.Module):  # type: ignore[misc]
    """A U-Net of three levels with transposed convolutions, for masks of two classes."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList([_double(a, b) for a, b in zip([3, *widths], widths, strict=False)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in itertools.pairwise(widths)])
        self.join = nn.ModuleList([_double(2 * a, a) for a in widths[:-1]])
        self.head = nn.Conv2d(width, 2, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images ``(n, 3, h, w)`` --> logits ``(n, h, w, 2)``."""
        skipped = []
        for level, down in enumerate(self.down):
            image = down(image)
            if level < len(self.up):
                skipped.append(image)
                image = self.pool(image)
        for level in reversed(range(len(self.up))):
            image = self.join[level](torch.cat([self.up[level](image), skipped[level]], 1))
        logits: torch.Tensor = self.head(image).movedim(1, -1)
        return logits


def _double(taken: int, given: int) -> nn.Module:
    parts = []
    for first in (taken, given):
        parts += [nn.Conv2d(first, given, 3, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU()]
    return nn.Sequential(*parts)


class Recurrent(nn.Module):  # type: ignore[misc]
    """A bidirectional LSTM that classifies sequences of 64 words."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_WORDS, width)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Words ``(n, 64)`` --> logits ``(n, 10)``."""
        logits: torch.Tensor = self.head(self.lstm(self.embedding(words))[0].mean(1))
        return logits


def _make_encoder(batch: int) -> Training:
    words = torch.randint(0, _WORDS, (batch, _TOKENS))
    return Training(Encoder(), words, torch.randint(0, _WORDS, (batch, _TOKENS)), images=False)


def _make_unet(batch: int) -> Training:
    side = 64
    return Training(UNet(), torch.randn(batch, 3, side, side), torch.randint(0, 2, (batch, side, side)), images=True)


def _make_recurrent(batch: int) -> Training:
    return Training(Recurrent(), torch.randint(0, _WORDS, (batch, 64)), torch.randint(0, 10, (batch,)), images=False)


#: The networks that need no package, by name.
OWN: dict[str, Callable[[int], Training]] = {"encoder": _make_encoder, "unet": _make_unet, "lstm": _make_recurrent}


#: What takes the place of modules whose gradients jump: where a number lies next to the jump, rounding decides.
_SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.SiLU,
    "Hardswish": nn.SiLU,
    "Hardsigmoid": nn.Sigmoid,
    "HardSwish": nn.SiLU,
    "HardSigmoid": nn.Sigmoid,
    "MaxPool2d": lambda: nn.AvgPool2d(2),
}


def make_training(name: str, batch: int = BATCH) -> Training:
    """A network and its batch, always with the same random numbers.

    Args:
        name: one of ``OWN``, or one of timm's. timm is taken from a package in the cache if it is not installed.
            ``unet:smooth`` is ``unet`` with smooth functions in place of those whose gradients jump.
        batch: how many inputs a batch has.

    Raises:
        UnreachableError: timm cannot be had.
    """
    name, _, form = name.partition(":")
    made = _make(name, batch)
    if form == "smooth":
        _smooth(made.module)
    return made


def _smooth(module: nn.Module) -> None:
    for name, child in module.named_children():
        if (found := _SMOOTH.get(type(child).__name__)) is not None:
            setattr(module, name, found())
        else:
            _smooth(child)


def _make(name: str, batch: int) -> Training:
    torch.manual_seed(0)
    if name in OWN:
        return OWN[name](batch)
    module = _make_timm(name)
    torch.manual_seed(0)
    images = torch.randn(batch, 3, _SIDE, _SIDE)
    return Training(module.train(), images, torch.randint(0, _CLASSES, (batch,)), images=True)


def _make_timm(name: str) -> nn.Module:
    if importlib.util.find_spec("timm") is None:
        sys.path.append(str(fetch_package(_TIMM, default_cache())))
    with accept_missing():
        import timm  # type: ignore[import-not-found, unused-ignore]

        made: nn.Module = timm.create_model(name, pretrained=False)
    return made
