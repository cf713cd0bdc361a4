"""Reads ONNX files in another process, so that a crash of ONNX Runtime ends only that process; or in this one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from tilewright.errors import ModelFormatError, ProcessError
from tilewright.frontend.onnx.data import open_model
from tilewright.frontend.onnx.index import Index, find_folder, read_index
from tilewright.frontend.onnx.model import FOLDED, MODEL, prepare
from tilewright.frontend.shapes import ShapeRequest
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.measure.memory import memory_error
from tilewright.scratch import explained

if TYPE_CHECKING:
    from tilewright.tuning.preparation import Preparation

__all__ = ["OnnxReading", "ReadModels", "read_here", "read_onnx", "read_prepared"]


@dataclass(frozen=True)
class ReadModels:
    """The models that were read from a file.

    Attributes:
        models: for each bucket, the model with fixed input shapes and explicit weights, and the same model folded.
        index: the buckets and the inputs.
    """

    models: tuple[tuple[onnx.ModelProto, onnx.ModelProto], ...]
    index: Index


def read_prepared(folder: Path) -> ReadModels:
    """The models that :func:`~tilewright.frontend.onnx.model.prepare` wrote. Raises as ``open_model`` does."""
    index = read_index(folder)
    places = [find_folder(folder, bucket) for bucket in range(len(index.buckets))]
    models = [(open_model(place / MODEL), open_model(place / FOLDED)) for place in places]
    return ReadModels(tuple(models), index)


class OnnxReading:
    """Reads a file in another process, while this one does something else, such as importing the compiler.

    It is a context manager. :func:`tilewright.frontend.load.load` takes it in place of a path.

    Args:
        path: the file.
        shapes: the shapes of inputs with symbolic dimensions, by name; or a request with buckets and fixed values.
        how: the function that the process calls, like :func:`tilewright.frontend.onnx.model.prepare`.

    Attributes:
        path: the file.
        shapes: the shapes of inputs with symbolic dimensions, by name; or a request with buckets and fixed values.
        folded: whether ONNX Runtime has folded constants and batch norms, known when :meth:`result` returns. If its
            optimiser crashes, the model is read without it.
        preparation: what was done with the model before it was read, for the report of a tuning; None: nothing.
    """

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, tuple[int, ...]] | ShapeRequest,
        how: Callable[..., None] = prepare,
    ) -> None:
        self.path, self.folded = path, True
        self.preparation: Preparation | None = None
        self.shapes = shapes if isinstance(shapes, ShapeRequest) else dict(shapes)
        self._how = how
        self._call: IsolatedCall | None = None
        self._place: tempfile.TemporaryDirectory[str] | None = None
        self._begin()

    def __enter__(self) -> OnnxReading:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process if it still runs, and remove its files."""
        self.close()

    def close(self) -> None:
        """End the process if it still runs, and remove its files. Does nothing the second time."""
        if self._call is not None:
            self._call.close()
        if self._place is not None:
            self._place.cleanup()
        self._call = self._place = None

    def result(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """The two models of the first bucket, as :meth:`results` returns them. Raises as that does."""
        return self.results().models[0]

    def results(self) -> ReadModels:
        """Wait for the process. A second call reads the file again.

        Returns:
            for each bucket, the model with fixed input shapes and explicit weights, and the same model folded.

        Raises:
            ModelFormatError: the file is missing or truncated, or it is no ONNX file.
            ResourceError: the model does not fit the memory, or the disk.
            ShapeError: ``shapes`` does not fix a symbolic input shape, names no input, or is none that the model takes.
            UnsupportedOperatorError: ONNX Runtime does not know an operator.
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
                if "SIGKILL" in str(error):  # Linux ends a process in this way if memory is missing
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

    def _finish(self) -> ReadModels:
        assert self._call is not None
        assert self._place is not None
        self._call.result()
        folder = Path(self._place.name)
        try:
            return read_prepared(folder)
        except OSError as exc:
            raise explained(exc, f"reading {self.path} needs temporary files", folder) from exc
        except MemoryError as exc:
            raise memory_error(f"reading {self.path}") from exc


def read_onnx(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The two models of a file, as :meth:`OnnxReading.result` returns them. Raises as that does."""
    with OnnxReading(path, shapes) as reading:
        return reading.result()


def read_here(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The two models of a file, read in this process, which saves starting another: a few tenths of a second.

    A crash of ONNX Runtime's optimiser ends this process. Returns and raises as :meth:`OnnxReading.result` does.
    """
    with tempfile.TemporaryDirectory(prefix="tilewright-") as place:
        folder = Path(place)
        prepare(path, shapes, folder)
        try:
            return open_model(folder / MODEL), open_model(folder / FOLDED)
        except OSError as exc:
            raise explained(exc, f"reading {path} needs temporary files", folder) from exc
        except MemoryError as exc:
            raise memory_error(f"reading {path}") from exc
