"""Processes that tests start, and what becomes of processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["ROOT", "started", "wait_until"]

ROOT = Path(__file__).parents[1]


@contextmanager
def started(
    command: Sequence[str],
    *,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = subprocess.PIPE,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A process in the checkout's directory that has ended after the block, at the latest by ``kill``.

    ``Popen`` itself waits at the end of its block. After a failed assertion that may be forever.
    """
    with subprocess.Popen(command, cwd=ROOT, stdin=stdin, stdout=stdout, stderr=stderr, env=env, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    """Whether a condition holds now or soon; a busy machine may take its time."""
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return holds
