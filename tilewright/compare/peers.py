"""The runtimes that an executable is compared with.

Each has a factory that makes a runnable in a process of its own. A new runtime needs one function and one line in
``PEERS``.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.errors import MeasureError
from tilewright.executable.manifest import find_listed, read_manifest
from tilewright.measure.peers import Runnable
from tilewright.tensor import TEXTS, Array, TensorSpec
from tilewright.tvm_compat import wanted_threads

if TYPE_CHECKING:
    import openvino as ov
    import torch

__all__ = [
    "PEERS",
    "OnnxRuntimePeer",
    "OpenVinoPeer",
    "TorchPeer",
    "bucket_model",
    "executable",
    "onnxruntime",
    "openvino",
    "pytorch",
    "pytorch_compiled",
    "reference_model",
    "untuned",
]

#: The file beside the ONNX file with weights that exceed protobuf's limit.
_MORE_WEIGHTS = "model.bin"


def reference_model(out: Path) -> Path | None:
    """The model file that the executable in ``out`` was made from; None if it keeps none. Imports no compiler.

    Raises:
        OutputError: there is no executable in ``out``, or it is damaged or was changed.
    """
    manifest = read_manifest(out)
    name = manifest.get("model")
    # Users who only run an executable may remove the model.
    if not name or not (out / Path(name).name).exists():
        return None
    if _MORE_WEIGHTS in manifest["sha256"]:
        find_listed(out, manifest, _MORE_WEIGHTS)
    return find_listed(out, manifest, name)


def bucket_model(out: Path, bucket: int, folder: Path) -> Path | None:
    """The model file of an executable, with the fixed shapes of one of its buckets if it has several.

    Args:
        out: the executable's directory.
        bucket: the number of the bucket.
        folder: a directory for a model with other shapes.

    Raises:
        OutputError: there is no executable in ``out``, or it is damaged or was changed.
    """
    model, buckets = reference_model(out), read_manifest(out).get("buckets")
    if model is None or not buckets:
        return model
    from tilewright.frontend.onnx.data import open_model, save_onnx
    from tilewright.frontend.onnx.shapes import set_shapes

    shapes = {entry["name"]: tuple(entry["shape"]) for entry in buckets[bucket]["inputs"]}
    if _is_program(str(model)):
        from tilewright.frontend.torch.model import read_program, write_program
        from tilewright.frontend.torch.shapes import bind_program

        made = folder / f"bucket{bucket}.pt2"
        write_program(bind_program(read_program(model), shapes), made)
        return made
    bound = open_model(model)
    set_shapes(bound, shapes)
    save_onnx(bound, folder / f"bucket{bucket}.onnx", f"bucket{bucket}.bin")
    return folder / f"bucket{bucket}.onnx"


def executable(out: str, bucket: int = 0) -> Runnable:
    """The executable in the directory ``out``, in the bucket of this number."""
    from tilewright.executable.executable import load_executable

    loaded: Runnable = load_executable(Path(out)).buckets[bucket]
    return loaded


def untuned(model: str, target: str) -> Runnable:
    """TVM's default build of the file ``model``."""
    from tilewright.compiling.build import build_untuned
    from tilewright.executable.executable import load_executable
    from tilewright.target import Target

    with tempfile.TemporaryDirectory(prefix="tilewright-untuned-") as folder:
        build_untuned(Path(model), Target.parse(target), Path(folder))
        loaded: Runnable = load_executable(Path(folder))  # does not need the files any more
    return loaded


def onnxruntime(model: str, target: str) -> Runnable:
    """ONNX Runtime with all its optimisations and all cores, whatever the target."""
    _need("onnxruntime")
    with tempfile.TemporaryDirectory(prefix="tilewright-onnx-") as folder:
        made = Path(folder, "model.onnx")
        if not _is_program(model):
            return OnnxRuntimePeer(str(_release(Path(model), made)))
        _need("torch", "onnxscript")
        from tilewright.frontend.torch.model import export_onnx, read_program

        export_onnx(read_program(Path(model)), made)
        return OnnxRuntimePeer(str(made))


def _release(model: Path, made: Path) -> Path:
    """The file of a model in which a caller may give fixed inputs; ``made`` is written if there are any."""
    from tilewright.frontend.onnx.data import open_model, save_onnx
    from tilewright.frontend.onnx.shapes import release_values

    released = release_values(open_model(model))
    if released is None:
        return model
    save_onnx(released, made)
    return made


def openvino(model: str, target: str) -> Runnable:
    """OpenVINO with all cores, set to the shortest latency, in float32 as the other runtimes are."""
    _need("openvino")
    import openvino as ov

    if not _is_program(model):
        return OpenVinoPeer(ov.Core().read_model(model))
    _need("torch")
    from tilewright.frontend.torch.model import read_program

    return OpenVinoPeer(ov.convert_model(read_program(Path(model))))


def pytorch(model: str, target: str) -> Runnable:
    """PyTorch without its compiler."""
    return TorchPeer(_torch_module(model))


def pytorch_compiled(model: str, target: str) -> Runnable:
    """PyTorch with ``torch.compile`` and frozen weights, as PyTorch advises for inference on CPUs."""
    return TorchPeer(_torch_module(model), compiled=True)


def _torch_module(model: str) -> torch.nn.Module:
    """The module of a PyTorch program or an ONNX file."""
    if _is_program(model):
        _need("torch")
        from tilewright.frontend.torch.model import flatten_program, read_program

        return flatten_program(read_program(Path(model)))
    _need("torch", "onnx2torch")
    from tilewright.frontend.torch.model import convert_onnx

    return convert_onnx(Path(model))


def _is_program(model: str) -> bool:
    """Whether the file is a PyTorch program; otherwise it is an ONNX file."""
    return Path(model).suffix == ".pt2"


def _need(*packages: str) -> None:
    """Raise ``MeasureError`` if one of the packages is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise MeasureError(f"{missing[0]} is not installed; install it with: pip install {' '.join(missing)}")


class OnnxRuntimePeer:
    """ONNX Runtime's CPU provider with its defaults: all optimisations, and threads that spin between runs.

    Args:
        model: the path of an ONNX file.

    Attributes:
        inputs: what a run takes, in order.
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
        """The seconds of each of ``runs`` runs on inputs that were bound before. Texts cannot be bound."""
        if not all(spec.is_numeric for spec in self.inputs):
            return [self._time_unbound(arrays) for _ in range(runs)]
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

    def _time_unbound(self, arrays: Sequence[Array]) -> float:
        begin = time.perf_counter()
        self(*arrays)
        return time.perf_counter() - begin


class OpenVinoPeer:
    """OpenVINO's CPU plugin.

    Args:
        model: the model.

    Attributes:
        inputs: empty: a run takes what the executable takes.
    """

    inputs: tuple[TensorSpec, ...] = ()

    def __init__(self, model: ov.Model) -> None:
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
        """The seconds of each of ``runs`` runs on inputs that were bound before."""
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
        compiled: whether ``torch.compile`` compiles it, in the first run.

    Attributes:
        inputs: empty: a run takes what the executable takes.
    """

    inputs: tuple[TensorSpec, ...] = ()

    def __init__(self, module: torch.nn.Module, compiled: bool = False) -> None:
        import torch

        torch.set_num_threads(wanted_threads())
        if compiled:
            # `import torch` does not import this module.
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
        """The seconds of each of ``runs`` runs."""
        seconds = []
        with self._torch.inference_mode():
            tensors = [self._torch.from_numpy(array) for array in arrays]
            for _ in range(runs):
                begin = time.perf_counter()
                self._module(*tensors)
                seconds.append(time.perf_counter() - begin)
        return seconds


#: NumPy's names of dtypes by ONNX Runtime's.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(string)": TEXTS,
}

#: The factories by the names that ``--against`` takes. Their arguments are the path of the model and the target's text.
PEERS: dict[str, Callable[[str, str], Runnable]] = {
    "onnxruntime": onnxruntime,
    "untuned": untuned,
    "openvino": openvino,
    "pytorch": pytorch,
    "pytorch-compiled": pytorch_compiled,
}
