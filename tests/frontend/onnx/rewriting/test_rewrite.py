"""Operators that TVM imports wrongly are replaced by others that compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.agreement import one_thread
from tests.models import TARGET, build_lean, read
from tilewright.frontend.onnx.rewriting.rewrite import rewrite
from tilewright.graph.tasks import extract


def model(nodes: list[Any], inputs: dict[str, Any], outputs: list[str], **weights: Any) -> onnx.ModelProto:
    kinds = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int64"): TensorProto.INT64}
    values = [helper.make_tensor_value_info(n, kinds[a.dtype], a.shape) for n, a in inputs.items()]
    results = [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in outputs]
    constants = [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "g", values, results, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(made)


def run(made: onnx.ModelProto, inputs: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(made.SerializeToString(), one_thread(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def floats(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def resize(scales: list[float], **how: Any) -> tuple[list[Any], dict[str, Any], list[str], dict[str, Any]]:
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], **how)
    return [node], {"x": floats(1, 3, 7, 5)}, ["y"], {"s": np.asarray([1, 1, *scales], dtype=np.float32)}


def pool(kind: str, padding: str, kernel: int, stride: int) -> Any:
    # Without a convolution before it, ONNX Runtime refuses a kernel that is smaller than its stride.
    conv = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])
    node = helper.make_node(kind, ["c"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, auto_pad=padding)
    return [conv, node], {"x": floats(1, 3, 14, 13)}, ["y"], {"w": floats(16, 3, 3, 3)}


def transposed(**how: Any) -> Any:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **how)
    return [node], {"x": floats(1, 4, 8, 8)}, ["y"], {"w": floats(4, 2, 3, 3)}


CASES = {
    "max pool, kernel below stride": pool("MaxPool", "SAME_UPPER", 1, 2),
    "mean pool, same lower": pool("AveragePool", "SAME_LOWER", 3, 2),
    "max pool, same upper": pool("MaxPool", "SAME_UPPER", 3, 2),
    "transposed, output shape": transposed(strides=[2, 2], output_shape=[16, 16]),
    "transposed, odd output shape": transposed(strides=[2, 2], output_shape=[15, 16]),
    "transposed, same upper": transposed(strides=[2, 2], output_shape=[16, 16], auto_pad="SAME_UPPER"),
    "transposed, larger than the kernel reaches": transposed(strides=[3, 3], output_shape=[25, 25]),
    "linear by 2.5": resize([2.5, 2.5], mode="linear"),
    "linear down": resize([0.6, 1.3], mode="linear", coordinate_transformation_mode="asymmetric"),
    "linear as PyTorch": resize([0.15, 1.5], mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    "nearest floor": resize(
        [2.5, 2.5], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
    "nearest": resize([1.7, 2.5], mode="nearest"),
    "nearest ceil": resize([1.7, 0.4], mode="nearest", nearest_mode="round_prefer_ceil"),
    "one hot": (
        [helper.make_node("OneHot", ["o", "d", "v"], ["y"])],
        {"o": np.asarray([0, -1, 3, 2, -4])},
        ["y"],
        {"d": np.asarray(4), "v": np.asarray([0, 1], dtype=np.float32)},
    ),
    "one hot of integers": (
        [helper.make_node("OneHot", ["o", "d", "v"], ["y"], axis=0)],
        {"o": np.asarray([0, 1, 3])},
        ["y"],
        {"d": np.asarray(4), "v": np.asarray([-2, 7])},
    ),
    "layer norm's mean and deviation": (
        [helper.make_node("LayerNormalization", ["x", "s", "b"], ["y", "m", "v"], axis=-1, epsilon=0.01)],
        {"x": floats(3, 6, 8)},
        ["y", "m", "v"],
        {"s": floats(8), "b": floats(8)},
    ),
    "layer norm's deviation over two axes": (
        [helper.make_node("LayerNormalization", ["x", "s"], ["y", "", "v"], axis=1)],
        {"x": floats(3, 6, 8)},
        ["y", "v"],
        {"s": floats(6, 8)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_is_computed(name: str, tmp_path: Path) -> None:
    nodes, inputs, outputs, weights = CASES[name]
    made = model(nodes, inputs, outputs, **weights)
    wanted = run(made, inputs)
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(made)
    rewrite(rewritten)
    onnx.checker.check_model(rewritten)
    for found, right in zip(run(rewritten, inputs), wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    path = tmp_path / "m.onnx"
    onnx.save(made, str(path))
    executable = build_lean(extract(read(path), TARGET), {}, tmp_path / "out")
    results = executable(*inputs.values())
    assert [r.dtype for r in results] == [r.dtype for r in wanted]
    for found, right in zip(results, wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


def test_a_model_that_needs_no_rewriting_stays_as_it_is() -> None:
    made = model([helper.make_node("GlobalMaxPool", ["x"], ["y"])], {"x": floats(1, 3, 4, 4)}, ["y"])
    before = made.SerializeToString()
    rewrite(made)
    assert made.SerializeToString() == before
