"""Runs the whole model of an executable with ONNX Runtime, for calls of shapes that have no plan."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilewright.errors import OutputError, ShapeError
from tilewright.executable.manifest import Manifest, copy_listed
from tilewright.executable.segment import open_session
from tilewright.tensor import Array, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["WholeModel"]

#: The name of the file beside the model with weights that exceed protobuf's limit.
_MORE_WEIGHTS = "model.bin"


class WholeModel:
    """A model that ONNX Runtime loads when it is called for the first time.

    Args:
        folder: the executable's directory, which must exist at the first call.
        manifest: of the executable; ``model`` names the file.
        inputs: the inputs of the model, in the order of a call.
        threads: how many threads ONNX Runtime uses.
    """

    def __init__(self, folder: Path, manifest: Manifest, inputs: Sequence[TensorSpec], threads: int) -> None:
        self._folder, self._manifest, self._threads = folder, manifest, threads
        self._names = [spec.name for spec in inputs]
        self._lock = threading.Lock()
        self._session: onnxruntime.InferenceSession | None = None

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs for ``arrays``.

        Raises:
            ShapeError: the model does not take them.
            MissingExtraError: ONNX Runtime is not installed.
            OutputError: the model's file is missing or was changed.
        """
        session = self._open()
        try:
            results = session.run(None, dict(zip(self._names, arrays, strict=True)))
        except Exception as exc:  # ONNX Runtime's errors share no base class
            said = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in zip(self._names, arrays, strict=True))
            raise ShapeError(f"the model takes other inputs than {shapes}: {said}; give another shape") from exc
        return [np.asarray(result) for result in results]

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of ``runs`` calls. Raises as :meth:`run` does."""
        seconds = []
        for _ in range(runs):
            begin = time.perf_counter()
            self.run(arrays)
            seconds.append(time.perf_counter() - begin)
        return seconds

    def _open(self) -> onnxruntime.InferenceSession:
        with self._lock:
            if self._session is None:
                name = self._manifest["model"] or ""
                with tempfile.TemporaryDirectory(prefix="tilewright-") as fresh:
                    for file in (name, _MORE_WEIGHTS):
                        if file == name or file in self._manifest["sha256"]:
                            copy_listed(self._folder, self._manifest, file, Path(fresh, file))
                    try:
                        self._session = open_session(Path(fresh, name), self._threads, alone=False)
                    except OSError as exc:
                        raise OutputError(f"{name} cannot be loaded: {exc}; tune again") from exc
            return self._session
