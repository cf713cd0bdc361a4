"""What an executable is compared with: each a factory that makes a runnable in a process of its own.

A new peer is one function and one line in ``PEERS``.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.errors import MeasureError, OutputError
from tilewright.measure.peers import Array, Runnable
from tilewright.tvm_compat import usable_cores

__all__ = ["PEERS", "OnnxInput", "OnnxRuntimePeer", "executable", "onnxruntime", "reference_model", "untuned"]


def reference_model(out: Path) -> Path | None:
    """The ONNX model that the executable in ``out`` was made from; None where it keeps none. Imports no compiler.

    Raises:
        OutputError: there is no executable in ``out``.
    """
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        name = manifest.get("model")
    except (OSError, ValueError, AttributeError) as error:
        raise OutputError(
            f"an executable is a directory with a manifest.json that `tilewright tune` wrote, but {out} is none: "
            f"{error}"
        ) from error
    # A manifest names files beside itself, and nothing elsewhere.
    path = out / Path(str(name)).name if name else None
    return path if path is not None and path.is_file() else None


def executable(out: str) -> Runnable:
    """The executable in the directory ``out``."""
    from tilewright.network.executable import load_executable

    loaded: Runnable = load_executable(Path(out))
    return loaded


def untuned(model: str, target: str) -> Runnable:
    """TVM's default build of the ONNX file ``model``."""
    from tilewright.network.build import build_untuned
    from tilewright.network.executable import load_executable
    from tilewright.target import Target

    with tempfile.TemporaryDirectory(prefix="tilewright-untuned-") as folder:
        build_untuned(Path(model), Target.parse(target), Path(folder))
        loaded: Runnable = load_executable(Path(folder))  # whoever holds a library open may see its file removed
    return loaded


def onnxruntime(model: str, target: str) -> Runnable:
    """ONNX Runtime with all its optimisations and all cores, whatever the target."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise MeasureError("onnxruntime is not installed; install it with: pip install onnxruntime")
    return OnnxRuntimePeer(model)


@dataclass(frozen=True)
class OnnxInput:
    """What an input looks like."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class OnnxRuntimePeer:
    """ONNX Runtime's CPU provider, as a user has it: every optimisation, threads that spin between runs.

    Args:
        model: an ONNX file.
    """

    def __init__(self, model: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(
            OnnxInput(spec.name, tuple(spec.shape), _DTYPES.get(spec.type, spec.type))
            for spec in self._session.get_inputs()
        )

    def __call__(self, *arrays: Array) -> list[Array]:
        """The outputs of one run."""
        feed = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}
        return list(self._session.run(None, feed))

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of some runs on inputs that were bound before."""
        binding = self._session.io_binding()
        for spec, array in zip(self.inputs, arrays, strict=True):
            binding.bind_cpu_input(spec.name, array)
        for output in self._session.get_outputs():
            binding.bind_output(output.name)
        seconds = []
        for _ in range(runs):
            begin = time.perf_counter()
            self._session.run_with_iobinding(binding)
            seconds.append(time.perf_counter() - begin)
        return seconds


_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}

#: By the name that ``--against`` takes; each is given the reference model's path and the target's text.
PEERS: dict[str, Callable[[str, str], Any]] = {"onnxruntime": onnxruntime, "untuned": untuned}
