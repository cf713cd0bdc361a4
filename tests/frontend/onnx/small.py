"""Small models of every element type, built and beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests.agreement import one_thread
from tests.models import TARGET, build_lean, built
from tests.models import read as read_file
from tilewright.executable.executable import Executable
from tilewright.graph.left_out import extract_all
from tilewright.graph.tasks import Extraction

Ends = Mapping[str, tuple[str, Sequence[int] | None]]


def value(name: str, dtype: str, shape: Sequence[int] | None) -> onnx.ValueInfoProto:
    kind = onnx.TensorProto.BFLOAT16 if dtype == "bfloat16" else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Ends,
    outputs: Ends,
    weights: Mapping[str, NDArray[Any]] | None = None,
    opset: int = 17,
    ir: int = 8,
) -> onnx.ModelProto:
    """A model; ``inputs`` and ``outputs`` have a dtype and a shape by name."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value(name, *end) for name, end in inputs.items()],
        [value(name, *end) for name, end in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def read(text: str, opset: int = 17) -> onnx.ModelProto:
    """A model in ONNX's text format."""
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')


def by_runtime(made: onnx.ModelProto, inputs: Sequence[Any]) -> list[NDArray[Any]]:
    """ONNX Runtime's outputs."""
    options = one_thread()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums without VNNI, too
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    weights = {tensor.name for tensor in made.graph.initializer}
    names = [v.name for v in made.graph.input if v.name not in weights]
    return [np.asarray(output) for output in session.run(None, dict(zip(names, inputs, strict=True)))]


def make(made: onnx.ModelProto, folder: Path, scheduled: bool = False) -> tuple[Extraction, Executable]:
    """Built with default schedules, or without any, which takes less time."""
    onnx.save(made, folder / "m.onnx")
    if scheduled:
        return built(folder / "m.onnx", folder / "out")
    extraction = extract_all(read_file(folder / "m.onnx"), TARGET)
    return extraction, build_lean(extraction, {}, folder / "out")


def same(found: NDArray[Any], expected: NDArray[Any], relative: float = 1e-5) -> None:
    """The dtype and the shape are the same, and so are the numbers, but for rounding."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind == "f":
        scale = float(np.abs(expected).max(initial=0.0)) if expected.size else 0.0
        np.testing.assert_allclose(found, expected, rtol=relative, atol=relative * scale)
    else:
        np.testing.assert_array_equal(found, expected)


def agrees(made: onnx.ModelProto, folder: Path, *inputs: Any, relative: float = 1e-5) -> Extraction:
    """The executable gives ONNX Runtime's outputs for ``inputs``."""
    extraction, executable = make(made, folder)
    found, expected = executable(*inputs), by_runtime(made, inputs)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        same(ours, theirs, relative)
    return extraction
