"""Judges executables of one network against one set of inputs, each executable in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from tilewright.errors import MeasureError
from tilewright.executable.manifest import read_manifest
from tilewright.frontend.network import Network
from tilewright.graph.buckets import Extracted, describe_bucket
from tilewright.tensor import Array
from tilewright.verify.culprits import Culprits, find_culprits
from tilewright.verify.inputs import Trials, find_trials
from tilewright.verify.judge import judge
from tilewright.verify.reference import open_reference
from tilewright.verify.runtime_rounding import add_runtime_rounding
from tilewright.verify.subject import judge_buckets
from tilewright.verify.verdict import Verdict, join_verdicts

__all__ = ["Checker"]


class Checker:
    """Judges whether executables of a network compute what its model computes.

    The inputs and the reference's outputs for them are found once, in the background; those of several buckets one
    after the other. The checker is a context manager that ends its processes on exit.

    Args:
        network: the network, with the model that it was read from; or the network in each bucket.
        seconds: about how long finding inputs may take, for all buckets together.
        samples: by the number of a bucket, inputs that executables are judged on besides.
    """

    def __init__(
        self,
        network: Network | Sequence[Network],
        seconds: float,
        samples: Mapping[int, Sequence[Sequence[Array]]] | None = None,
    ) -> None:
        self._networks = (network,) if isinstance(network, Network) else tuple(network)
        self._seconds, self._samples = seconds / len(self._networks), samples or {}
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="tilewright-reference")
        self._stack = contextlib.ExitStack()
        self._found: list[Future[Trials]] = [
            self._helper.submit(self._find, bucket) for bucket in range(len(self._networks))
        ]
        self._wrong: list[int] = []

    def __enter__(self) -> Checker:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        for future in self._found:
            future.cancel()
        self._stack.close()  # a thread that waits for the reference ends then, too
        self._helper.shutdown(cancel_futures=True)

    @property
    def trials(self) -> Trials:
        """The inputs of the first bucket with their expected outputs. Waits until they are found."""
        return self.trials_of(0)

    def trials_of(self, bucket: int) -> Trials:
        """The inputs of a bucket, by its number, with their expected outputs. Waits until they are found."""
        try:
            return self._found[bucket].result()
        except MeasureError as error:
            return Trials((), "", f"the reference could not be computed: {error}")

    def judge(self, folder: Path) -> Verdict:
        """Judge the executable in a directory, in all buckets. If its process dies, the verdict is wrong.

        An executable with segments that is wrong is judged once more, with ONNX Runtime's own rounding allowed.

        Raises:
            MeasureError: no process can be started.
        """
        trials = [self.trials_of(bucket) for bucket in range(len(self._networks))]
        if any(each.trials for each in trials):
            verdicts = judge_buckets(folder, trials)
            if any(verdict.wrong for verdict in verdicts) and read_manifest(folder).get("segments"):
                verdicts = judge_buckets(folder, list(map(add_runtime_rounding, self._networks, trials)))
        else:
            verdicts = [judge(lambda _: [], each) for each in trials]  # not decidable; nothing is run
        self._wrong = [bucket for bucket, verdict in enumerate(verdicts) if verdict.wrong]
        if len(verdicts) == 1:
            return verdicts[0]
        return join_verdicts([describe_bucket(network) for network in self._networks], verdicts)

    def find_culprits(self, folder: Path, extraction: Extracted) -> Culprits:
        """Find the cause of the wrong outputs of the executable in a directory, which was built from ``extraction``.

        Of several buckets, those are looked at whose outputs were wrong when the last executable was judged.

        Raises:
            MeasureError: no process can be started.
        """
        buckets = self._wrong or range(len(self._networks))
        found = [find_culprits(folder, extraction.parts[bucket], self.trials_of(bucket)) for bucket in buckets]
        if len(found) == 1:
            return found[0]
        tasks = tuple(dict.fromkeys(task for each in found for task in each.tasks))
        kernels = tuple(dict.fromkeys(kernel for each in found for kernel in each.kernels))
        return Culprits(tasks, next((each.stage for each in found if each.tasks), found[0].stage), kernels)

    def _find(self, bucket: int) -> Trials:
        with contextlib.ExitStack() as stack:
            # The reference of a bucket ends with its trials, or when the checker is left.
            self._stack.callback(stack.close)
            reference = stack.enter_context(open_reference(self._networks[bucket]))
            samples = self._samples.get(bucket, ())
            return find_trials(self._networks[bucket], reference, seconds=self._seconds, samples=samples)
