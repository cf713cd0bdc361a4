"""Runs the programs of ``bench.verdict`` in a process of their own, which a program may crash."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tilewright.compare import peers
from tilewright.errors import MeasureError
from tilewright.measure.peer_process import PeerProcess
from tilewright.tensor import Array

__all__ = ["Runs", "executable", "onnxruntime", "processor_seconds", "pytorch"]


class Program:
    """What the process holds: something that is called with arrays.

    Args:
        run: gives the outputs for the inputs.
    """

    inputs: tuple[()] = ()

    def __init__(self, run: Callable[..., Sequence[Array]]) -> None:
        self._run = run

    def outputs(self, _: Sequence[Array], arrays: Sequence[Array]) -> list[Array]:
        """The outputs for ``arrays``, as copies."""
        return [array.copy() for array in self._run(*arrays)]


def executable(path: str) -> Program:
    """A Tilewright executable."""
    return Program(peers.executable(path))


def onnxruntime(path: str, optimised: bool = True) -> Program:
    """ONNX Runtime on an ONNX file, with threads that sleep between runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in session.get_inputs()]
    return Program(lambda *arrays: list(session.run(None, dict(zip(names, arrays, strict=True)))))


def pytorch(path: str) -> Program:
    """PyTorch on a ``.pt2`` file."""
    return Program(peers.pytorch(path, ""))


def processor_seconds() -> float:
    """What this process and its children have used of all processors: it grows less than the time with neighbours."""
    used = sum(os.times()[:4])
    for listing in Path("/proc/self/task").glob("*/children"):
        for child in listing.read_text().split():
            with contextlib.suppress(OSError):  # it has ended, and is in os.times
                fields = Path("/proc", child, "stat").read_text().rpartition(")")[2].split()
                used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


class Runs:
    """A process that runs one program after the other. It is started when it is needed, and again where it has ended.

    Args:
        threads: how many threads a program may use.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._process: PeerProcess | None = None

    def __enter__(self) -> Runs:
        """Nothing is started yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self._end()

    def load(self, factory: Callable[..., Program], path: Path, *more: Any) -> Callable[[Sequence[Array]], list[Array]]:
        """Load a program; what is returned runs it, until the next one is loaded.

        Raises:
            MeasureError: it cannot be loaded or run, or it has ended its process.
        """
        self._ask(lambda process: process.start(factory, (str(path), *more)))
        return lambda arrays: list(self._ask(lambda process: process.call("outputs", list(arrays))))

    def _ask(self, question: Callable[[PeerProcess], Any]) -> Any:
        if self._process is None:
            self._process = PeerProcess(self._threads)
        try:
            return question(self._process)
        except MeasureError as error:
            if "process" in str(error) or "no answer" in str(error):
                self._end()
            raise

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None
