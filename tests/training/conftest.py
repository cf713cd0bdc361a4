"""What tests of training share."""

from __future__ import annotations

import errno
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


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch runs all parts."""

    def refuse() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tilewright.training.worker._workers", {})
    monkeypatch.setattr("tilewright.training.worker.make_folder", refuse)
