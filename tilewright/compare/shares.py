"""How much of an executable's time is spent in each part that ONNX Runtime runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tilewright.errors import MeasureError
from tilewright.executable.executable import load_executable
from tilewright.executable.program import KernelTime
from tilewright.executable.segment import segment_name
from tilewright.measure.isolated import IsolatedProcess
from tilewright.tensor import random_arrays

__all__ = ["ProfilingSide", "find_shares", "measure_shares"]

#: Runs of the network; the first of them meets cold caches, and does not count.
_RUNS = 6


class ProfilingSide:
    """An executable in a process of its own, whose calls are timed.

    Args:
        directory: the executable's directory.
        seed: of the random inputs.
        bucket: the number of the bucket, of an executable with several.
    """

    def __init__(self, directory: str, seed: int, bucket: int = 0) -> None:
        self._executable = load_executable(directory)
        self._inputs = random_arrays(self._executable.buckets[bucket].inputs, seed)

    def profile(self) -> list[KernelTime]:
        """The time of each call of the network, in order; empty if its calls cannot be told apart."""
        return self._executable.profile(self._inputs, _RUNS) or []


def measure_shares(directory: Path, segments: int, seed: int, bucket: int = 0) -> list[float | None]:
    """The share of the network's time in each segment, from 0 to 1; None: it cannot be measured.

    Args:
        directory: the executable's directory.
        segments: how many segments it has in this bucket.
        seed: of the random inputs.
        bucket: the number of the bucket, of an executable with several.
    """
    if not segments:
        return []
    try:
        with IsolatedProcess(ProfilingSide, (str(directory.absolute()), seed, bucket)) as process:
            times = process.call("profile")
    except MeasureError:  # the executable was timed already, and this only adds a figure
        return [None] * segments
    return find_shares(times, segments)


def find_shares(times: Sequence[KernelTime], segments: int) -> list[float | None]:
    """The share of each segment in the time of all calls, by the medians of their runs."""
    medians = [(call.kernel, statistics.median(call.seconds[1:] or call.seconds)) for call in times]
    total = sum(seconds for _, seconds in medians)
    if total <= 0.0:
        return [None] * segments
    names = [segment_name(number) for number in range(segments)]
    return [sum(seconds for kernel, seconds in medians if kernel == name) / total for name in names]
