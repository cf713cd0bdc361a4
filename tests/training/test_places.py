"""Places of the largest pixels of windows are not saved: the backward pass finds them again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.models import Convolutions, passes_of, torch

nn = torch.nn


class Unpooled(nn.Module):  # type: ignore[misc, name-defined]
    """A pool whose places are used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Any) -> Any:
        """Of images (n, 3, h, w): (n, 4)."""
        y, places = nn.functional.max_pool2d(torch.relu(self.conv(x)), 2, return_indices=True)
        return nn.functional.max_unpool2d(y, places, 2).mean((2, 3))


@pytest.mark.parametrize(("model", "again"), [(Convolutions, True), (Unpooled, False)])
def test_places_are_recomputed(model: Any, again: bool) -> None:
    torch.manual_seed(0)
    forward, backward = passes_of(model(), torch.randn(2, 3, 10, 10))
    assert ("max_pool2d_with_indices.default" in backward.code) == again
    saved = next(iter(reversed(forward.graph.nodes))).args[0]
    dtypes = [node.meta["val"].dtype for node in saved if hasattr(node, "meta") and node.meta["val"].dim() == 4]
    assert (torch.int64 in dtypes) != again
