"""What several processes of one test run have in common."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["make_once"]


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A directory that the first process that asks for it fills; the others wait for it. No test may change it.

    With pytest-xdist each process makes its own fixtures, also those of a session. Its documentation shows this pattern
    under "Making session-scoped fixtures execute only once".

    Args:
        factory: of the directories of this run.
        name: of the directory.
        make: fills an empty directory. If it raises, the next process tries again.
    """
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    made = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            part = Path(tempfile.mkdtemp(dir=folder))
            make(part)
            part.rename(made)
    return made
