"""What tests of training share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def fresh() -> Iterator[None]:
    """The same random numbers for each test, and nothing that another test has compiled."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    torch.compiler.reset()
    yield
    torch.compiler.reset()
