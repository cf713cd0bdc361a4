"""An executable under test, in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from tilewright.measure.isolated import IsolatedProcess
from tilewright.verify.inputs import Trials
from tilewright.verify.judge import judge
from tilewright.verify.verdict import Verdict

__all__ = ["ExecutableSide", "judge_executable", "open_executable"]

Run: TypeAlias = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]


class ExecutableSide:
    """The executable's side: what runs in the process.

    Args:
        directory: of the executable.
    """

    def __init__(self, directory: str) -> None:
        from tilewright.executable.executable import load_executable

        self._executable = load_executable(directory)

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for ``inputs``."""
        return self._executable(*inputs)


@contextlib.contextmanager
def open_executable(directory: Path, seconds: float = 600.0) -> Iterator[Run]:
    """A function that runs the executable in ``directory`` in a process, which ends with the context.

    The function raises ``MeasureError`` if the executable cannot be loaded, refuses its inputs, crashes its process, or
    has not ended after ``seconds``.

    Raises:
        MeasureError: no process can be started.
    """
    with IsolatedProcess(ExecutableSide, (str(directory.absolute()),)) as process:

        def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
            return list(process.call("run", list(inputs), seconds=seconds))

        yield run


def judge_executable(directory: Path, trials: Trials, seconds: float = 600.0) -> Verdict:
    """The verdict on the executable in ``directory``, which runs in a process of its own.

    Args:
        directory: of the executable.
        trials: the inputs that it is judged on.
        seconds: the limit of each run.

    Raises:
        MeasureError: no process can be started.
    """
    with open_executable(directory, seconds) as run:
        return judge(run, trials)
