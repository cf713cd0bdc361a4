"""What an executable is compared with: each a factory that makes a runnable in a process of its own.

A new peer is one function and one line in ``PEERS``.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tilewright.errors import MeasureError
from tilewright.executable.manifest import listed, read_manifest
from tilewright.measure.peers import Runnable
from tilewright.tensor import Array, TensorSpec
from tilewright.tvm_compat import wanted_threads

__all__ = [
    "PEERS",
    "OnnxRuntimePeer",
    "OpenVinoPeer",
    "TorchPeer",
    "executable",
    "onnxruntime",
    "openvino",
    "pytorch",
    "pytorch_compiled",
    "reference_model",
    "untuned",
]

#: Where weights that pass protobuf's limit are, beside the ONNX file.
_MORE_WEIGHTS = "model.bin"


def reference_model(out: Path) -> Path | None:
    """The model file that the executable in ``out`` was made from; None where it keeps none. Imports no compiler.

    Raises:
        OutputError: there is no executable in ``out``, or it is damaged or was changed.
    """
    manifest = read_manifest(out)
    name = manifest.get("model")
    # Who only runs an executable may leave the model out of the directory.
    if not name or not (out / Path(name).name).exists():
        return None
    if _MORE_WEIGHTS in manifest["sha256"]:
        listed(out, manifest, _MORE_WEIGHTS)
    return listed(out, manifest, name)


def executable(out: str) -> Runnable:
    """The executable in the directory ``out``."""
    from tilewright.executable.executable import load_executable

    loaded: Runnable = load_executable(Path(out))
    return loaded


def untuned(model: str, target: str) -> Runnable:
    """TVM's default build of the file ``model``."""
    from tilewright.compiling.build import build_untuned
    from tilewright.executable.executable import load_executable
    from tilewright.target import Target

    with tempfile.TemporaryDirectory(prefix="tilewright-untuned-") as folder:
        build_untuned(Path(model), Target.parse(target), Path(folder))
        loaded: Runnable = load_executable(Path(folder))  # whoever holds a library open may see its file removed
    return loaded


def onnxruntime(model: str, target: str) -> Runnable:
    """ONNX Runtime with all its optimisations and all cores, whatever the target."""
    _need("onnxruntime")
    if not _is_program(model):
        return OnnxRuntimePeer(model)
    _need("torch", "onnxscript")
    from tilewright.frontend.torch.model import onnx_from_program, read_program

    with tempfile.TemporaryDirectory(prefix="tilewright-onnx-") as folder:
        exported = Path(folder, "model.onnx")
        onnx_from_program(read_program(Path(model)), exported)
        return OnnxRuntimePeer(str(exported))


def openvino(model: str, target: str) -> Runnable:
    """OpenVINO with all cores, for the shortest latency, computing in float32 as the others do."""
    _need("openvino")
    import openvino as ov

    if not _is_program(model):
        return OpenVinoPeer(ov.Core().read_model(model))
    _need("torch")
    from tilewright.frontend.torch.model import read_program

    return OpenVinoPeer(ov.convert_model(read_program(Path(model))))


def pytorch(model: str, target: str) -> Runnable:
    """PyTorch as it runs without its compiler."""
    return TorchPeer(_torch_module(model))


def pytorch_compiled(model: str, target: str) -> Runnable:
    """PyTorch by ``torch.compile``, whose weights are frozen, as PyTorch advises for inference on CPUs."""
    return TorchPeer(_torch_module(model), compiled=True)


def _torch_module(model: str) -> Any:
    if _is_program(model):
        _need("torch")
        from tilewright.frontend.torch.model import flat_module, read_program

        return flat_module(read_program(Path(model)))
    _need("torch", "onnx2torch")
    from tilewright.frontend.torch.model import module_from_onnx

    return module_from_onnx(Path(model))


def _is_program(model: str) -> bool:
    """Whether it is a PyTorch program, rather than an ONNX file."""
    return Path(model).suffix == ".pt2"


def _need(*packages: str) -> None:
    """Raise ``MeasureError`` where a package is missing that a peer needs."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise MeasureError(f"{missing[0]} is not installed; install it with: pip install {' '.join(missing)}")


class OnnxRuntimePeer:
    """ONNX Runtime's CPU provider, as a user has it: every optimisation, threads that spin between runs.

    Args:
        model: an ONNX file.
    """

    def __init__(self, model: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = wanted_threads()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(
            TensorSpec(spec.name, tuple(spec.shape), _DTYPES.get(spec.type, spec.type))
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


class OpenVinoPeer:
    """OpenVINO's CPU plugin.

    Args:
        model: an ``openvino.Model``.
    """

    inputs: tuple[TensorSpec, ...] = ()  # it takes what the executable takes

    def __init__(self, model: Any) -> None:
        import openvino as ov

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": wanted_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._tensor = ov.Tensor
        self._compiled = ov.Core().compile_model(model, "CPU", settings)
        self._request = self._compiled.create_infer_request()

    def __call__(self, *arrays: Array) -> list[Array]:
        """The outputs of one run."""
        self._bind(arrays)
        self._request.infer()
        return [self._request.get_tensor(port).data.copy() for port in self._compiled.outputs]

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of some runs on inputs that were bound before."""
        self._bind(arrays)
        seconds = []
        for _ in range(runs):
            begin = time.perf_counter()
            self._request.infer()
            seconds.append(time.perf_counter() - begin)
        return seconds

    def _bind(self, arrays: Sequence[Array]) -> None:
        for port, array in zip(self._compiled.inputs, arrays, strict=True):
            self._request.set_tensor(port, self._tensor(array, shared_memory=True))


class TorchPeer:
    """A PyTorch module, in inference mode.

    Args:
        module: takes tensors in the order of the executable's inputs.
        compiled: whether by ``torch.compile``; the first run compiles.
    """

    inputs: tuple[TensorSpec, ...] = ()  # it takes what the executable takes

    def __init__(self, module: Any, compiled: bool = False) -> None:
        import torch

        torch.set_num_threads(wanted_threads())
        if compiled:
            # `import torch` brings it in only where it is used.
            importlib.import_module("torch._inductor.config").freezing = True  # type: ignore[attr-defined]
            module = torch.compile(module)
        self._torch, self._module = torch, module

    def __call__(self, *arrays: Array) -> list[Array]:
        """The outputs of one run."""
        with self._torch.inference_mode():
            result = self._module(*map(self._torch.from_numpy, arrays))
        results = result if isinstance(result, list | tuple) else [result]
        return [tensor.numpy() for tensor in results]

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of some runs."""
        seconds = []
        with self._torch.inference_mode():
            tensors = [self._torch.from_numpy(array) for array in arrays]
            for _ in range(runs):
                begin = time.perf_counter()
                self._module(*tensors)
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
PEERS: dict[str, Callable[[str, str], Any]] = {
    "onnxruntime": onnxruntime,
    "untuned": untuned,
    "openvino": openvino,
    "pytorch": pytorch,
    "pytorch-compiled": pytorch_compiled,
}
