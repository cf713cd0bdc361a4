"""Runs a segment of an executable: operators that no kernel computes, by ONNX Runtime on the executable's memory.

The segment is called like a kernel, by the runtime. It reads its inputs where kernels have written them, and writes its
outputs where kernels will read them; nothing is copied.
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
    "signals",
]

#: What the names of a plan's calls of segments begin with. No kernel's name has this character.
PREFIX = "@"
#: A kernel, as the runtime calls it.
_KERNEL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p)


class SegmentJson(TypedDict):
    """A segment in the manifest.

    Attributes:
        inputs: the names of the inputs that are the first tensors of its call.
        outputs: the names of the outputs that are the next tensors of its call. The last tensor of a call that has no
            outputs, or that returns some, is one byte that nothing is written to.
        given: the names of the network's inputs that it is given as they are.
        returned: the names of the network's outputs that it returns as they are.
        reasons: why operators are in it, for people.
        operators: the types of its operators, each once, for people.
    """

    inputs: list[str]
    outputs: list[str]
    given: list[str]
    returned: list[str]
    reasons: list[str]
    operators: list[str]


def count_tensors(entry: SegmentJson) -> int:
    """The number of tensors of a segment's call."""
    return len(entry["inputs"]) + len(entry["outputs"]) + signals(entry)


def signals(entry: SegmentJson) -> bool:
    """Whether the last tensor of a segment's call is a byte that nothing is written to."""
    return not entry["outputs"] or bool(entry["returned"])


def segment_name(number: int) -> str:
    """The name of a plan's calls of a segment."""
    return f"{PREFIX}{number}"


def is_segment(name: str) -> bool:
    """Whether a call's name is that of a segment."""
    return name.startswith(PREFIX)


def file_name(number: int) -> str:
    """The name of the file of a segment's model."""
    return f"segment{number}.onnx"


def data_name(number: int) -> str:
    """The name of the file of a segment's weights, if they are not in the model's."""
    return f"segment{number}.bin"


@dataclass
class _Bound:
    """Where a segment's tensors are: arrays on the executable's memory."""

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
        given: the network's inputs that it is given as they are, by name; set before each run.
        returned: the network's outputs that it returns as they are, by name, after each run.
        error: what the last call raised.

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
        """Let its inputs and outputs be in ``tensors``: those of its call, in order."""
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
        except Exception as exc:  # none may pass through the runtime, and ONNX Runtime's share no base class
            self.error = exc
            return 1
        return 0

    def _run_copying(self) -> None:
        """Run with values that have no place in the executable's memory."""
        feeds: dict[str, Any] = {**self._bound.inputs, **self.given}
        for name, value in zip(self._names, self._session.run(self._names, feeds), strict=True):
            slot = self._bound.outputs.get(name)
            if slot is not None:
                np.copyto(slot, value)
            if name in self.entry["returned"]:
                self.returned[name] = value

    def take_error(self) -> MeasureError | None:
        """What the last call raised, as an error for people; None if it raised nothing."""
        error, self.error = self.error, None
        if error is None:
            return None
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        made = MeasureError(f"a part of the network that ONNX Runtime runs failed: {said}")
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    # Threads that wait for work without sleeping would take the cores from the kernels.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if alone else "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's errors share no base class
        said = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise OutputError(f"ONNX Runtime cannot load {path.name}: {said}; tune again with this version") from exc
