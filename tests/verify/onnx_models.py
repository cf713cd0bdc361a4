"""Makes small ONNX models in memory, and runs them in ONNX Runtime."""

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
from tilewright.frontend.network import Network
from tilewright.tensor import TensorSpec

Array = NDArray[Any]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[Sequence[int], str]],
    outputs: Mapping[str, str],
    opset: int = 17,
    **weights: Array,
) -> onnx.ModelProto:
    """A model of ``nodes``. ``inputs`` has shapes and dtypes by name; ``outputs`` has dtypes by name."""

    def value(name: str, dtype: str, shape: Sequence[int] | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    graph = helper.make_graph(
        list(nodes),
        "g",
        [value(name, dtype, shape) for name, (shape, dtype) in inputs.items()],
        [value(name, dtype, None) for name, dtype in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def network(made: onnx.ModelProto) -> Network:
    """The network of a model as it is loaded, without a Relax module."""

    def specs(values: Any) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                v.name,
                tuple(d.dim_value for d in v.type.tensor_type.shape.dim),
                str(helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)),
            )
            for v in values
        )

    return Network("m", None, specs(made.graph.input), specs(made.graph.output), {}, onnx=made)


def saved(made: onnx.ModelProto, path: Path) -> Path:
    onnx.save(made, str(path))
    return path


def by_onnxruntime(made: onnx.ModelProto, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of ONNX Runtime without optimisation."""
    options = one_thread()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    return list(session.run(None, {value.name: array for value, array in zip(made.graph.input, inputs, strict=True)}))


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def single(values: Any) -> NDArray[np.float32]:
    """An array of float32."""
    return np.asarray(values, np.float32)
