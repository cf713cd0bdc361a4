"""A quick look in this process at whether an executable agrees with ONNX Runtime or PyTorch.

Whether an executable is right is for ``tilewright.verify`` to say, which takes seconds and processes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilewright.executable.executable import Executable
from tilewright.frontend.network import Network
from tilewright.measure.compare import relative_error

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

__all__ = ["TOLERANCE", "compare_with", "network_error", "one_thread", "telling"]

#: The largest accepted difference, relative to the largest output.
TOLERANCE = 1e-3
#: The share of an output's elements that must be above the tolerance for a difference to show.
_TELLING = 0.01
#: What random inputs are multiplied with, in turn, until the outputs are telling.
_SCALES = (1.0, 0.1, 0.01, 0.001)


def one_thread() -> SessionOptions:
    """Options of ONNX Runtime for one thread. Several processes of tests share the cores, where more would spin."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return options


def _reference(network: Network) -> Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]] | None:
    """Runs ONNX Runtime or PyTorch; None where the network came from neither."""
    if network.program is not None:
        import torch

        from tilewright.frontend.torch.model import flatten_program

        module = flatten_program(network.program)

        def by_torch(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
            with torch.inference_mode():
                result = module(*(torch.from_numpy(array) for array in inputs))
            return [tensor.numpy() for tensor in (result if isinstance(result, list | tuple) else [result])]

        return by_torch
    if network.onnx is None:
        return None
    import tempfile
    from pathlib import Path

    import onnxruntime

    from tilewright.frontend.onnx.data import save_onnx

    options = one_thread()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums without VNNI, too
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder, "model.onnx")
        save_onnx(network.onnx, path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def by_onnxruntime(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        feeds = {spec.name: array for spec, array in zip(network.inputs, inputs, strict=True)}
        return [np.asarray(o) for o in session.run(None, feeds)]

    return by_onnxruntime


def telling(outputs: Sequence[NDArray[Any]]) -> bool:
    """Whether a difference would show: each output has more than a few elements above the tolerance.

    A softmax of large numbers is 1 in one place and 0 elsewhere, almost whatever was computed before it.
    """
    for output in outputs:
        size = np.abs(output[np.isfinite(output)])
        if size.size and np.mean(size > TOLERANCE * size.max()) < min(1.0, max(_TELLING, 2 / size.size)):
            return False
    return True


def compare_with(network: Network, seed: int = 0) -> Callable[[Executable], float] | None:
    """What gives executables' relative errors against the reference on random inputs; None where there is none.

    The reference runs once, for all executables. The inputs are made smaller where its outputs would not be
    :func:`telling`.
    """
    run = _reference(network)
    if run is None:
        return None
    inputs = network.random_inputs(seed)
    tried = []
    for scale in _SCALES:
        scaled = [(a * scale).astype(a.dtype) if np.issubdtype(a.dtype, np.floating) else a for a in inputs]
        reference = run(scaled)
        tried.append((scaled, reference))
        if telling(reference):
            tried = tried[-1:]
            break
    return lambda executable: max(_largest(executable, *pair) for pair in tried)


def network_error(executable: Executable, network: Network, seed: int = 0) -> float | None:
    """The executable's relative error, as :func:`compare_with` finds it; None where there is no reference."""
    compare = compare_with(network, seed)
    return None if compare is None else compare(executable)


def _largest(executable: Executable, inputs: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> float:
    return max(relative_error(r, e) for r, e in zip(executable(*inputs), reference, strict=True))
