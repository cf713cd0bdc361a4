"""What the log of a run holds of the network: its tasks, and the kernels of the published executable."""

from __future__ import annotations

import contextlib
import statistics

from tilewright.errors import TilewrightError
from tilewright.executable.executable import Executable
from tilewright.graph.buckets import Extracted
from tilewright.tensor import random_arrays
from tilewright.tuning.run_events import TaskFunctions
from tilewright.tuning.run_log import RunLog

__all__ = ["list_functions", "log_kernels"]

#: Seconds in which the kernels of the published executable are timed, about, and how often the network runs.
_PROFILING, _LEAST_RUNS, _MOST_RUNS = 0.5, 3, 50


def list_functions(extraction: Extracted) -> tuple[TaskFunctions, ...]:
    """The tasks of a network, with the names of their functions."""
    return tuple(
        TaskFunctions(use.task.key, use.task.name, tuple(use.functions), use.weight, use.task.flop)
        for use in extraction.uses
    )


def log_kernels(log: RunLog, executable: Executable) -> None:
    """Time each kernel of the published executable in its place, for about half a second."""
    if len(executable.buckets) > 1:
        return
    with contextlib.suppress(TilewrightError):  # it was judged; a figure for the report is worth no failed run
        arrays = random_arrays(executable.inputs, 0)
        first = sum(executable.time(arrays, 1))  # the first run meets cold caches and sleeping threads
        found = executable.profile(arrays, max(_LEAST_RUNS, min(_MOST_RUNS, int(_PROFILING / max(first, 1e-4)))))
        if found is not None:
            names = tuple(each.kernel for each in found)
            log.kernels(names, tuple(round(statistics.median(each.seconds), 9) for each in found))
