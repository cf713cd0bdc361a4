"""Runs the segments of an executable: ONNX Runtime computes their operators on the executable's memory.

The runtime calls a segment like a kernel. The segment reads its inputs where kernels have written them, and writes its
outputs where kernels will read them. Nothing is copied, with one exception. Some inputs and outputs of a network have
no place in that memory: texts, sequences, tensors of open shape. A segment with such values copies its results.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from tilewright.errors import MeasureError, MissingExtraError, OutputError
from tilewright.tensor import Array

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "PREFIX",
    "LoadedSegment",
    "SegmentJson",
    "count_tensors",
    "data_name",
    "file_name",
    "is_segment",
    "open_session",
    "segment_name",
    "segment_number",
    "signals",
]

#: The first character of the names of those calls in a plan that call segments. No kernel's name has it.
PREFIX = "@"
#: The type of a kernel in C.
_KERNEL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p)


class _Required(TypedDict):
    inputs: list[str]
    outputs: list[str]
    given: list[str]
    returned: list[str]
    reasons: list[str]
    operators: list[str]


class SegmentJson(_Required, total=False):
    """A segment in the manifest.

    Attributes:
        inputs: the names of those inputs that are in the executable's memory. They are the first tensors of its call.
        outputs: the names of those outputs that are in the executable's memory. They are the next tensors of its call.
            If there are none, or if ``returned`` has names, the call's last tensor is one byte that is never written.
        given: the names of those inputs of the network that it takes as Python objects, such as texts.
        returned: the names of those outputs of the network that it returns as Python objects.
        reasons: why operators are in it, for people to read.
        operators: the types of its operators, each once, for people to read.
        opset: the version of ONNX's operators. Manifests of earlier versions lack it.
    """

    opset: int


def count_tensors(entry: SegmentJson) -> int:
    """The number of tensors of a segment's call."""
    return len(entry["inputs"]) + len(entry["outputs"]) + signals(entry)


def signals(entry: SegmentJson) -> bool:
    """Whether the last tensor of a segment's call is a byte that is never written."""
    return not entry["outputs"] or bool(entry["returned"])


def segment_name(number: int) -> str:
    """The name of the calls of segment ``number`` in a plan."""
    return f"{PREFIX}{number}"


def segment_number(name: str) -> int:
    """The number of the segment whose calls have this name in a plan."""
    return int(name.removeprefix(PREFIX))


def is_segment(name: str) -> bool:
    """Whether a call's name is that of a segment."""
    return name.startswith(PREFIX)


def file_name(number: int) -> str:
    """The name of the file of a segment's model."""
    return f"segment{number}.onnx"


def data_name(number: int) -> str:
    """The name of the file of a segment's weights, if they are not in the file of its model."""
    return f"segment{number}.bin"


@dataclass
class _Bound:
    """A segment's tensors, by name: arrays on the executable's memory."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


class LoadedSegment:
    """A segment that can be called.

    Args:
        path: the file of its model.
        entry: its entry in the manifest.
        threads: how many threads it uses.
        alone: whether no kernel runs beside it, so that its threads may wait for work without sleeping.

    Attributes:
        entry: its entry in the manifest.
        given: the inputs of the network that it takes as Python objects, by name. The caller sets them before each run.
        returned: the outputs of the network that it returns as Python objects, by name, after each run.
        error: the exception of the last call; None: there was none.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        OutputError: ONNX Runtime refuses the model.
    """

    def __init__(self, path: Path, entry: SegmentJson, threads: int, alone: bool) -> None:
        self.entry = entry
        self._session = open_session(path, threads, alone)
        self.given: dict[str, object] = {}
        self.returned: dict[str, object] = {}
        self.error: Exception | None = None
        self._bound = _Bound({}, {})
        self._binding: onnxruntime.IOBinding | None = None
        self._names = [output.name for output in self._session.get_outputs()]
        self.kernel = _KERNEL(self._call)

    @property
    def address(self) -> int:
        """The address of the function that the runtime calls."""
        found = ctypes.cast(self.kernel, ctypes.c_void_p).value
        assert found is not None
        return found

    def bind(self, tensors: Sequence[Array]) -> None:
        """Make ``tensors``, the tensors of its call in order, its inputs and outputs."""
        count = len(self.entry["inputs"])
        inputs = dict(zip(self.entry["inputs"], tensors[:count], strict=True))
        outputs = dict(zip(self.entry["outputs"], tensors[count:], strict=False))
        self._bound = _Bound(inputs, outputs)
        if self.entry["given"] or self.entry["returned"]:
            return
        binding = self._session.io_binding()
        for named, place in ((inputs, binding.bind_input), (outputs, binding.bind_output)):
            for name, array in named.items():
                place(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._binding = binding

    def _call(self, _: object, arguments: object, count: int, result: object) -> int:
        try:
            if self._binding is not None:
                self._session.run_with_iobinding(self._binding)
            else:
                self._run_copying()
        except Exception as exc:  # none may pass through C code, and ONNX Runtime's errors share no base class
            self.error = exc
            return 1
        return 0

    def _run_copying(self) -> None:
        """Run with inputs or outputs that have no place in the executable's memory."""
        feeds: dict[str, Any] = {**self._bound.inputs, **self.given}
        for name, value in zip(self._names, self._session.run(self._names, feeds), strict=True):
            slot = self._bound.outputs.get(name)
            if slot is not None:
                np.copyto(slot, value)
            if name in self.entry["returned"]:
                self.returned[name] = value

    def take_error(self) -> MeasureError | None:
        """The exception of the last call, as an error with a message for users; None if there was none."""
        error, self.error = self.error, None
        if error is None:
            return None
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        made = MeasureError(
            f"a part of the network that ONNX Runtime runs failed: {said}; give inputs that the model accepts in ONNX "
            "Runtime, such as indices inside of their axes"
        )
        made.__cause__ = error
        return made


def open_session(path: Path, threads: int, alone: bool) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime for the model in a file.

    Args:
        path: the file.
        threads: how many threads it uses.
        alone: whether its threads may wait for work without sleeping, since no kernel runs beside it.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        OutputError: ONNX Runtime refuses the model.
    """
    try:
        import onnxruntime
    except ImportError as exc:
        raise MissingExtraError("onnxruntime") from exc

    def options(exact: bool) -> onnxruntime.SessionOptions:
        made = onnxruntime.SessionOptions()
        made.intra_op_num_threads = threads
        made.log_severity_level = 4
        # Threads that wait for work without sleeping would take the cores from the kernels.
        made.add_session_config_entry("session.intra_op.allow_spinning", "1" if alone else "0")
        # Otherwise sums of products of bytes saturate on x86-64 without VNNI.
        made.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
        return made

    try:
        try:
            return onnxruntime.InferenceSession(str(path), options(True), providers=["CPUExecutionProvider"])
        except Exception:  # exact kernels fail for weights that several operators read (ONNX Runtime 1.32)
            return onnxruntime.InferenceSession(str(path), options(False), providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's errors share no base class
        said = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise OutputError(f"ONNX Runtime cannot load {path.name}: {said}; tune again with this version") from exc
