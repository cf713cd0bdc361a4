"""Runs an executable under test in a process of its own, and judges it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tilewright.measure.isolated import IsolatedProcess
from tilewright.tensor import Array
from tilewright.verify.inputs import Trials
from tilewright.verify.judge import Run, judge
from tilewright.verify.verdict import Verdict

__all__ = ["ExecutableSide", "judge_buckets", "judge_executable", "open_executable"]

#: Seconds within which a run under test must end.
_SECONDS = 600.0


class ExecutableSide:
    """The executable in its process.

    Args:
        directory: the executable's directory.
    """

    def __init__(self, directory: str) -> None:
        from tilewright.executable.executable import load_executable

        self._executable = load_executable(directory)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for ``inputs``."""
        return self._executable(*inputs)


@contextlib.contextmanager
def open_executable(directory: Path, seconds: float = _SECONDS) -> Iterator[Run]:
    """A function that runs the executable in ``directory`` in another process. The process ends with the context.

    The function raises ``MeasureError`` if the executable cannot be loaded, refuses its inputs, crashes its process, or
    runs for longer than ``seconds``.

    Raises:
        MeasureError: no process can be started.
    """
    with IsolatedProcess(ExecutableSide, (str(directory.absolute()),)) as process:

        def run(inputs: Sequence[Array]) -> list[Array]:
            return list(process.call("run", list(inputs), seconds=seconds))

        yield run


def judge_executable(directory: Path, trials: Trials, seconds: float = _SECONDS) -> Verdict:
    """Judge the executable in ``directory``, which runs in a process of its own.

    Args:
        directory: the executable's directory.
        trials: the inputs that it is judged on.
        seconds: the time limit of each run.

    Raises:
        MeasureError: no process can be started.
    """
    with open_executable(directory, seconds) as run:
        return judge(run, trials)


def judge_buckets(directory: Path, trials: Sequence[Trials], seconds: float = _SECONDS) -> list[Verdict]:
    """Judge the executable in ``directory`` in each of its buckets, in one process while it goes well.

    Args:
        directory: the executable's directory.
        trials: the inputs of each bucket.
        seconds: the time limit of each run.

    Raises:
        MeasureError: no process can be started.
    """
    verdicts: list[Verdict] = []
    while len(verdicts) < len(trials):
        with open_executable(directory, seconds) as run:
            for each in trials[len(verdicts) :]:
                verdicts.append(judge(run, each))
                if verdicts[-1].wrong:  # the process may have ended
                    break
    return verdicts
