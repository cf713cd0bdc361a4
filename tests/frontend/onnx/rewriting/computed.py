"""Runs ONNX models, before and after they are rewritten, and in executables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from tests.agreement import one_thread
from tests.models import TARGET, build_lean
from tilewright.frontend.load import read_model
from tilewright.frontend.onnx.data import open_model
from tilewright.frontend.onnx.model import FOLDED, MODEL, prepare
from tilewright.frontend.onnx.rewriting.rewrite import rewrite
from tilewright.graph.left_out import extract_all


def make(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, Any],
    outputs: list[str],
    opset: int = 18,
    domains: tuple[str, ...] = (),
    **weights: Any,
) -> onnx.ModelProto:
    """A model with inputs of these arrays' shapes and dtypes."""
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in inputs.items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    constants = [numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items()]
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    graph = helper.make_graph(nodes, "g", values, results, constants)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def run(model: onnx.ModelProto, inputs: Mapping[str, Any]) -> list[Any]:
    """The outputs in ONNX Runtime, which is not let to optimise anything."""
    options = one_thread()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model, rewritten."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    rewrite(made)
    return made


def compile_and_run(model: onnx.ModelProto, inputs: Mapping[str, Any], folder: Path) -> tuple[list[Any], list[str]]:
    """The outputs of an executable with default schedules, and why operators are in segments."""
    path = folder / "m.onnx"
    onnx.save(model, str(path))
    prepare(path, {}, folder)
    network = read_model("m", open_model(folder / MODEL), open_model(folder / FOLDED), {})
    extraction = extract_all(network, TARGET)
    executable = build_lean(extraction, {}, folder / "out")
    results = executable(*[inputs[spec.name] for spec in extraction.network.inputs])
    return results, [reason for segment in extraction.network.segments for reason in segment.reasons]


def check_same(found: list[Any], right: list[Any], tolerance: float = 1e-5) -> None:
    """Fail if results differ in number, dtype, shape, or by more than ``tolerance`` of the largest number."""
    assert [(a.dtype, a.shape) for a in found] == [(a.dtype, a.shape) for a in right]
    for a, b in zip(found, right, strict=True):
        if b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            continue
        limit = 4e-3 if b.dtype == np.float16 else tolerance
        bounded = np.abs(b[np.isfinite(b)])
        scale = max(1.0, float(bounded.max())) if bounded.size else 1.0
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=limit, atol=limit * scale)


def single(values: object) -> Any:
    return np.asarray(values, dtype=np.float32)


def int32(values: object) -> Any:
    return np.asarray(values, dtype=np.int32)


def int64(values: object) -> Any:
    return np.asarray(values, dtype=np.int64)
