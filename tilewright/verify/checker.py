"""Judges executables of one network against one set of inputs, each executable in a process of its own."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from tilewright.errors import MeasureError
from tilewright.frontend.network import Network
from tilewright.graph.tasks import Extraction
from tilewright.verify.culprits import Culprits, find_culprits
from tilewright.verify.inputs import Trials, find_trials
from tilewright.verify.judge import judge
from tilewright.verify.reference import open_reference
from tilewright.verify.subject import judge_executable
from tilewright.verify.verdict import Verdict

__all__ = ["Checker"]


class Checker:
    """Judges whether executables of a network compute what its model computes.

    The inputs and the reference's outputs for them are found once, in the background. The checker is a context manager
    that ends its processes on exit.

    Args:
        network: the network, with the model that it was read from.
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
        self._stack.close()  # a thread that waits for the reference ends then, too
        self._helper.shutdown(cancel_futures=True)

    @property
    def trials(self) -> Trials:
        """The inputs with their expected outputs. Waits until they are found."""
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
            return judge(lambda _: [], trials)  # not decidable; nothing is run
        return judge_executable(folder, trials)

    def find_culprits(self, folder: Path, extraction: Extraction) -> Culprits:
        """Find the cause of the wrong outputs of the executable in a directory, which was built from ``extraction``.

        Raises:
            MeasureError: no process can be started.
        """
        return find_culprits(folder, extraction, self.trials)

    def _find(self) -> Trials:
        reference = self._stack.enter_context(open_reference(self._network))
        return find_trials(self._network, reference, seconds=self._seconds)
