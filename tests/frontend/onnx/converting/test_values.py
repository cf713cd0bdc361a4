"""Operators whose outputs models seldom use, or whose inputs are computed, give what ONNX Runtime gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from bench._operators import Constant, Input, Trial, find_differences
from tilewright.tensor import Array

rng = np.random.default_rng(0)
IMAGE = rng.standard_normal((1, 2, 6, 5)).astype(np.float32)
BYTES = rng.integers(0, 255, (2, 3, 5, 4)).astype(np.uint8)
ROWS = rng.integers(0, 255, (6, 8)).astype(np.uint8)


def single(value: float, dtype: str = "float32") -> Constant:
    return Constant(np.asarray(value, dtype=dtype))


SCALES: list[Input] = [single(0.02), single(121, "uint8")]
OUT: list[Input] = [single(0.03), single(117, "uint8")]
WEIGHT = Constant(rng.integers(-127, 127, (8, 5)).astype(np.int8))
MICROSOFT = "com.microsoft"

#: Opset 21 by name; the domain of ONNX Runtime has no opsets.
TRIALS: dict[str, Trial] = {
    "conv_integer": Trial(
        "ConvInteger", [BYTES, Constant(rng.integers(0, 255, (2, 3, 3, 3)).astype(np.uint8)), single(7, "uint8")]
    ),
    "dynamic_quantize": Trial("DynamicQuantizeLinear", [IMAGE], outputs=3),
    "blocked": Trial(
        "DequantizeLinear",
        [rng.integers(-8, 7, (4, 6)).astype(np.int8), Constant(rng.uniform(0.1, 1, (4, 3)).astype(np.float32))],
        {"axis": 1, "block_size": 2},
    ),
    "int4": Trial(
        "DequantizeLinear",
        [Constant(rng.integers(-8, 7, (4, 6)), TensorProto.INT4), single(0.1)],
    ),
    "add": Trial("QLinearAdd", [BYTES, *SCALES, BYTES[:, :1], *SCALES, *OUT], domain=MICROSOFT),
    "mul": Trial("QLinearMul", [BYTES, *SCALES, BYTES[:, :1], *SCALES, *OUT], domain=MICROSOFT),
    "sigmoid": Trial("QLinearSigmoid", [BYTES, *SCALES, single(1 / 256), single(0, "uint8")], domain=MICROSOFT),
    "leaky": Trial("QLinearLeakyRelu", [BYTES, *SCALES, *OUT], {"alpha": 0.1}, domain=MICROSOFT),
    "softmax": Trial(
        "QLinearSoftmax",
        [ROWS, *SCALES, single(1 / 256), single(0, "uint8")],
        {"axis": -1, "opset": 13},
        domain=MICROSOFT,
        error=1,
    ),
    "global_average": Trial("QLinearGlobalAveragePool", [BYTES, *SCALES, *OUT], domain=MICROSOFT),
    "average": Trial(
        "QLinearAveragePool", [BYTES, *SCALES, *OUT], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 0]}, domain=MICROSOFT
    ),
    "concat": Trial("QLinearConcat", [*OUT, BYTES, *SCALES, BYTES, *OUT], {"axis": 1}, domain=MICROSOFT),
    "gemm": Trial(
        "QGemm",
        [ROWS, *SCALES, WEIGHT, single(0.01), single(3, "int8"), Constant(np.arange(5, dtype=np.int32)), *OUT],
        domain=MICROSOFT,
    ),
    "dynamic_matmul": Trial(
        "DynamicQuantizeMatMul", [IMAGE[0, 0, :, :4], Constant(WEIGHT.values[:4]), single(0.01)], domain=MICROSOFT
    ),
    "to_float": Trial(
        "MatMulIntegerToFloat", [ROWS, WEIGHT, single(0.02), single(0.01), single(9, "uint8")], domain=MICROSOFT
    ),
    "few_bits": Trial(
        "MatMulNBits",
        [
            rng.standard_normal((3, 32)).astype(np.float32),
            Constant(rng.integers(0, 255, (4, 2, 8)).astype(np.uint8)),
            Constant(rng.uniform(0.1, 1, 8).astype(np.float32)),
        ],
        {"K": 32, "N": 4, "bits": 4, "block_size": 16},
        domain=MICROSOFT,
        error=1e-4,
    ),
}


@pytest.mark.parametrize("names", [list(TRIALS)[:5], list(TRIALS)[5:]])
def test_quantised_operators_are_compiled_and_right(names: list[str], tmp_path: Path) -> None:
    findings = find_differences({name: TRIALS[name] for name in names}, tmp_path, 21)
    assert [f for f in findings if f.outcome != "right"] == []


def test_unpooled_and_deformed_images(tmp_path: Path) -> None:
    weight, bias = rng.standard_normal((3, 2, 3, 3)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    indices = np.asarray([[[[5, 7], [13, 15]]]], dtype=np.int64)
    signal = rng.standard_normal((2, 40, 1)).astype(np.float32)
    window = Constant(np.hanning(16).astype(np.float32))
    trials = {
        "unpool": Trial("MaxUnpool", [IMAGE[:, :1, :2, :2], indices], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        "reverse": Trial(
            "ReverseSequence", [IMAGE[0, 0], np.asarray([3, 1, 6, 2, 4])], {"time_axis": 0, "batch_axis": 1}
        ),
        "stft": Trial("STFT", [signal, single(8, "int64"), window], {"onesided": 1}, error=1e-4),
        "deform": Trial(
            "DeformConv",
            [
                IMAGE,
                Constant(weight),
                rng.standard_normal((1, 18, 4, 3)).astype(np.float32),
                Constant(bias),
            ],
            {"kernel_shape": [3, 3], "pads": [0, 0, 0, 0]},
            error=1e-4,
        ),
    }
    findings = find_differences(trials, tmp_path, 19)
    assert [f for f in findings if f.outcome != "right"] == []


def test_scales_and_paddings_that_are_computed(tmp_path: Path) -> None:
    """The shapes of the results are declared; without that they would be open."""
    import onnx
    from onnx import helper

    from bench._operators import run_reference
    from tests.models import built

    scales, pads = np.asarray([1, 1, 1.5, 0.6], np.float32), np.asarray([0, 0, 1, 2, 0, 0, 2, 0])
    inputs: dict[str, Array] = {"x": IMAGE, "s": scales, "p": pads}
    nodes = [
        helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear"),
        helper.make_node("Pad", ["x", "p"], ["z"], mode="reflect"),
    ]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in inputs.items()
    ]
    ends = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 9, 3]),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 2, 9, 7]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values, ends), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.save(model, str(tmp_path / "m.onnx"))
    extraction, executable = built(tmp_path / "m.onnx", tmp_path / "out")
    assert not extraction.network.segments
    for found, wanted in zip(executable(*inputs.values()), run_reference(model, inputs).values(), strict=True):
        np.testing.assert_allclose(found, wanted.astype(np.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quantised", [True, False], ids=["quantised data", "float data"])
def test_quantised_weights_become_plain_weights_unless_their_data_are_quantised(
    quantised: bool, tmp_path: Path
) -> None:
    import onnx
    from onnx import helper, numpy_helper

    from tilewright.frontend.onnx.model import FOLDED, prepare

    weight, scale = rng.integers(-127, 127, (4, 2, 3, 3)).astype(np.int8), np.asarray(0.01, np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        helper.make_node("Conv", ["d", "v"], ["y"]),
    ]
    if not quantised:
        nodes[:2] = [helper.make_node("Relu", ["x"], ["d"])]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (1, 2, 6, 6)), ("y", (1, 4, 4, 4)))
    ]
    weights: dict[str, Array] = {"s": scale, "w": weight}
    if quantised:
        weights["z"] = np.asarray(3, np.uint8)
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(tmp_path / "m.onnx")
    )
    prepare(tmp_path / "m.onnx", {}, tmp_path)
    folded = onnx.load(str(tmp_path / FOLDED))
    before = ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear"] if quantised else ["Relu"]
    assert sorted(node.op_type for node in folded.graph.node) == sorted([*before, "Conv"])
    found = [numpy_helper.to_array(tensor) for tensor in folded.graph.initializer if len(tensor.dims) == 4]
    np.testing.assert_array_equal(found[0], weight if quantised else weight.astype(np.float32) * scale)
