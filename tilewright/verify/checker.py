"""Judges executables of one network, each in a process of its own, against one set of inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from tilewright.errors import MeasureError
from tilewright.frontend.network import Network
from tilewright.graph.tasks import Extraction
from tilewright.verify.inputs import Trials, find_trials
from tilewright.verify.judge import judge
from tilewright.verify.localise import Culprits, find_culprits
from tilewright.verify.reference import open_reference
from tilewright.verify.subject import judge_executable
from tilewright.verify.verdict import Verdict

__all__ = ["Checker"]


class Checker:
    """Says whether executables of a network compute what its model computes.

    The inputs, and the reference's outputs for them, are found once, in the background. A context manager: leaving it
    ends its processes.

    Args:
        network: with the model that it was read from.
        seconds: about how long finding inputs may take.
    """

    def __init__(self, network: Network, seconds: float) -> None:
        self._network, self._seconds = network, seconds
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="tilewright-reference")
        self._stack = contextlib.ExitStack()
        self._trials: Future[Trials] = self._helper.submit(self._find)

    def __enter__(self) -> Checker:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        self._stack.close()  # a thread that waits for the reference then ends as well
        self._helper.shutdown(cancel_futures=True)

    @property
    def trials(self) -> Trials:
        """The inputs with their expected outputs; waits for them."""
        try:
            return self._trials.result()
        except MeasureError as error:
            return Trials((), "", f"the reference could not be computed: {error}")

    def judge(self, folder: Path) -> Verdict:
        """Judge the executable in a directory. If its process dies, the verdict is wrong.

        Raises:
            MeasureError: no process can be started.
        """
        trials = self.trials
        if not trials.trials:
            return judge(_nothing, trials)
        return judge_executable(folder, trials)

    def find_culprits(self, folder: Path, extraction: Extraction) -> Culprits:
        """Who is to blame for the wrong outputs of the executable in a directory."""
        return find_culprits(folder, extraction, self.trials)

    def _find(self) -> Trials:
        reference = self._stack.enter_context(open_reference(self._network))
        return find_trials(self._network, reference, seconds=self._seconds)


def _nothing(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    return []
