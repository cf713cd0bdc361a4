"""Reading ONNX files in a process of its own: a file, or ONNX Runtime, that crashes ends only that process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from tilewright.errors import ModelFormatError, ProcessError
from tilewright.frontend.onnx.data import open_model
from tilewright.frontend.onnx.model import FOLDED, MODEL, prepare
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.measure.memory import memory_error
from tilewright.scratch import explained

__all__ = ["OnnxReading", "read_onnx"]


class OnnxReading:
    """The reading of a file, which goes on while this process does something else, as importing the compiler.

    :func:`tilewright.frontend.load.load` takes one in the place of a path. Use it as a context manager.

    Attributes:
        path: the file.
        shapes: of symbolic inputs.
        folded: whether ONNX Runtime has folded constants and batch norms; known with the result. Where its optimiser
            crashes, the model is read without.

    Args:
        path: the file.
        shapes: of symbolic inputs.
        how: what the process calls, like :func:`tilewright.frontend.onnx.model.prepare`.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], how: Callable[..., None] = prepare) -> None:
        self.path, self.shapes, self.folded = path, dict(shapes), True
        self._how = how
        self._call: IsolatedCall | None = None
        self._place: tempfile.TemporaryDirectory[str] | None = None
        self._begin()

    def __enter__(self) -> OnnxReading:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, if it goes on, and remove its files."""
        self.close()

    def close(self) -> None:
        """End the process, if it goes on, and remove its files. Does nothing the second time."""
        if self._call is not None:
            self._call.close()
        if self._place is not None:
            self._place.cleanup()
        self._call = self._place = None

    def result(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """The model with static input shapes and explicit weights, and the same with batch norms folded.

        Waits for the process. May be asked for again, then the file is read again.

        Raises:
            ModelFormatError: missing, truncated, or not ONNX.
            ResourceError: it does not fit the memory, or the disk.
            ShapeError: a symbolic input shape that ``shapes`` does not fix, or a shape for no input.
            UnsupportedOperatorError: an operator that ONNX Runtime does not know.
        """
        try:
            if self._call is None:
                self._begin()
            try:
                return self._finish()
            except ProcessError as error:
                if not error.died:
                    raise ModelFormatError(f"{self.path} cannot be read: {error}; export it again") from error
            self.close()
            self.folded = False
            self._begin()
            try:
                return self._finish()
            except ProcessError as error:
                if "SIGKILL" in str(error):  # as the kernel ends a process that takes too much
                    raise memory_error(f"reading {self.path}") from error
                raise ModelFormatError(
                    f"a model can be read by the onnx package, but {self.path} ends it: {error}; export it again"
                ) from error
        finally:
            self.close()

    def _begin(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="tilewright-")
        try:
            folder = Path(self._place.name)
            self._call = IsolatedCall(self._how, self.path, self.shapes, folder, self.folded)
        except BaseException:
            self.close()
            raise

    def _finish(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        assert self._call is not None
        assert self._place is not None
        self._call.result()
        folder = Path(self._place.name)
        try:
            return open_model(folder / MODEL), open_model(folder / FOLDED)
        except OSError as exc:
            raise explained(exc, f"reading {self.path} needs temporary files", folder) from exc
        except MemoryError as exc:
            raise memory_error(f"reading {self.path}") from exc


def read_onnx(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Any, Any]:
    """The two models of a file, as :meth:`OnnxReading.result` gives them. Raises as that does."""
    with OnnxReading(path, shapes) as reading:
        return reading.result()
