"""Results of batch norms that the backward pass computes again: they are not saved, and gradients stay right."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.models import passes_of, torch

nn = torch.nn


class Activated(nn.Module):  # type: ignore[misc, name-defined]
    """A convolution, a batch norm and an activation, twice; then a mean over all pixels."""

    def __init__(self, activation: Any, affine: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16, affine=affine), activation(), nn.Conv2d(16, 16, 1),
            nn.BatchNorm2d(16, affine=affine), activation(),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        """Of images (n, 3, h, w): (n, 16)."""
        return self.layers(x).mean((2, 3))


@pytest.mark.parametrize(
    ("activation", "affine", "again"),
    [
        (nn.Hardswish, True, True),
        (lambda: nn.Hardswish(inplace=True), True, True),
        (lambda: nn.SiLU(inplace=True), True, True),
        (nn.ReLU, True, False),  # its gradient needs the result alone, which the next convolution reads anyway
        (nn.Hardswish, False, False),
    ],
    ids=["hardswish", "in place", "silu", "relu", "no scale"],
)
def test_norm_before_an_activation_is_computed_again(activation: Any, affine: bool, again: bool) -> None:
    torch.manual_seed(0)
    graphs = passes_of(Activated(activation, affine), torch.randn(4, 3, 8, 8))
    assert ("native_batch_norm_legit_no_training" in graphs[1].code) == again
    assert "clone" not in graphs[0].code
