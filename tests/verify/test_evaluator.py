"""The evaluator computes what ONNX Runtime computes, but for rounding, and more precisely."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, parser
from scipy import special

from tests.verify.onnx_models import by_onnxruntime, model, normal, single
from tilewright.verify.evaluator import OnnxEvaluator

_RNG = np.random.default_rng(1)
_X = normal(2, 4, 11, 9)
_EMPTY = np.zeros(0, np.float32)
_UINT8 = _RNG.integers(0, 256, (3, 4)).astype(np.uint8)
_GLOBAL = ("GlobalMaxPool", "GlobalAveragePool")
_INTS = _RNG.integers(-20, 20, (5, 6))

#: Operator, inputs, opset, number of outputs, attributes. Scales, sizes and depths are constants of the model.
_CASES: list[tuple[str, list[Any], int, int, dict[str, Any]]] = [
    *(
        ("Conv", [_X, normal(6, 4 // g, k, k), normal(6)], 17, 1, {"auto_pad": pad, "strides": [s, s], "group": g})
        for pad in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
        for s, k, g in ((1, 3, 1), (2, 3, 2), (3, 2, 1), (2, 1, 1))
    ),
    ("Conv", [normal(1, 8, 10), normal(8, 1, 3)], 17, 1, {"group": 8, "pads": [1, 2], "dilations": [2]}),
    ("Conv", [normal(1, 2, 5, 6, 7), normal(3, 2, 3, 3, 3)], 17, 1, {"pads": [1] * 6}),
    *(
        ("ConvTranspose", [normal(1, 4, 5, 6), normal(4, 3, 3, 3)], 17, 1, {"strides": [2, 2]} | more)
        for more in (
            {"auto_pad": "SAME_UPPER"},
            {"auto_pad": "SAME_LOWER"},
            {"output_shape": [10, 12]},
            {"pads": [1, 0, 1, 1], "output_padding": [1, 1], "dilations": [1, 2]},
        )
    ),
    ("ConvTranspose", [normal(2, 4, 5, 6), normal(4, 2, 3, 3), normal(4)], 17, 1, {"group": 2}),
    *((op, [normal(*shape)], 17, 1, {}) for op in _GLOBAL for shape in ((2, 3, 7), (2, 3, 5, 4), (1, 2, 3, 4, 5))),
    *(
        ("MaxPool", [_X], 17, 1, {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": c} | more)
        for c in (0, 1)
        for more in ({"pads": [1, 1, 1, 0]}, {"auto_pad": "SAME_UPPER"}, {"dilations": [2, 1]})
    ),
    *(
        ("AveragePool", [_X], 17, 1, {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": c} | more)
        for c in (0, 1)
        for more in ({"pads": [1, 1, 0, 1], "count_include_pad": 1}, {"pads": [1, 1, 0, 1]}, {"auto_pad": "SAME_LOWER"})
    ),
    *((op, [_X], 17, 1, {}) for op in ("Sigmoid", "Softplus", "Erf", "Tanh", "Elu", "HardSwish", "GlobalAveragePool")),
    ("Mish", [_X], 18, 1, {}),
    ("Gelu", [_X], 20, 1, {}),
    ("Gelu", [_X], 20, 1, {"approximate": "tanh"}),
    *((op, [_X], opset, 1, {"axis": 1}) for op in ("Softmax", "LogSoftmax") for opset in (9, 13)),
    *(
        ("BatchNormalization", [_X, normal(4), normal(4), normal(4), np.abs(normal(4)) + 1], opset, 1, {})
        for opset in (7, 9, 15)
    ),
    ("LRN", [normal(2, 7, 4, 5)], 17, 1, {"size": 5}),
    ("InstanceNormalization", [_X, normal(4), normal(4)], 17, 1, {}),
    ("LayerNormalization", [normal(2, 3, 8), normal(8), normal(8)], 17, 3, {}),
    ("GroupNormalization", [_X, normal(4), normal(4)], 21, 1, {"num_groups": 2}),
    ("MatMul", [normal(2, 3, 4), normal(2, 4, 5)], 17, 1, {}),
    ("Gemm", [normal(3, 4), normal(5, 4), normal(5)], 17, 1, {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    *(("Div", [_INTS, np.array(d)], 17, 1, {}) for d in (7, -3)),
    ("Mod", [_INTS, np.array(7)], 17, 1, {}),
    *(
        ("Resize", [_X, _EMPTY, single(scales)], opset, 1, {"mode": mode, "coordinate_transformation_mode": how})
        for opset, mode in ((11, "nearest"), (13, "linear"), (18, "cubic"))
        for how in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
        for scales in ([1, 1, 2, 2], [1, 1, 2.5, 0.7])
    ),
    ("Resize", [_X, _EMPTY, _EMPTY, np.array([2, 4, 15, 20])], 13, 1, {"mode": "linear"}),
    ("Resize", [_X, single([1, 1, 2.3, 0.6])], 10, 1, {"mode": "nearest"}),
    ("Upsample", [_X, single([1, 1, 2, 3])], 9, 1, {"mode": "linear"}),
    ("Upsample", [_X], 7, 1, {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 3.0]}),
    ("DequantizeLinear", [_UINT8, normal(4), _UINT8[0]], 13, 1, {"axis": 1}),
    ("QuantizeLinear", [normal(3, 4), np.array(0.1, np.float32), np.array(128, np.uint8)], 13, 1, {}),
    ("Cast", [normal(3, 4) * 10], 17, 1, {"to": TensorProto.INT32}),
    ("OneHot", [_INTS % 4, np.array(4), single([0, 1])], 17, 1, {}),
    ("Gather", [normal(5, 6), np.array([[-5, 0], [4, 2]])], 17, 1, {}),
    (
        "LSTM",
        [normal(5, 2, 3), normal(2, 16, 3), normal(2, 16, 4)],
        17,
        3,
        {"hidden_size": 4, "direction": "bidirectional"},
    ),
]


@pytest.mark.parametrize("case", _CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_as_onnxruntime(case: tuple[str, list[Any], int, int, dict[str, Any]]) -> None:
    operator, arrays, opset, count, attributes = case
    names = [f"i{k}" for k in range(len(arrays))]
    constant = range(1, len(arrays)) if operator in ("Resize", "Upsample", "OneHot") else ()
    node = helper.make_node(operator, names, [f"o{k}" for k in range(count)], **attributes)
    made = model(
        [node],
        {names[k]: (a.shape, str(a.dtype)) for k, a in enumerate(arrays) if k not in constant},
        {f"o{k}": str(_dtype(operator, arrays)) for k in range(count)},
        opset,
        **{names[k]: arrays[k] for k in constant},
    )
    given = [a for k, a in enumerate(arrays) if k not in constant]
    wanted = by_onnxruntime(made, given)
    for double in (True, False):
        found = OnnxEvaluator(made, [value.name for value in made.graph.input], double).run(given)
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.dtype == (np.float64 if double and theirs.dtype == np.float32 else theirs.dtype)
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


def _dtype(operator: str, arrays: list[Any]) -> Any:
    if operator == "OneHot":
        return np.dtype(np.float32)
    dtypes = {"DequantizeLinear": np.float32, "QuantizeLinear": np.uint8, "Cast": np.int32}
    return np.dtype(dtypes.get(operator, arrays[0].dtype))


def run(nodes: list[Any], x: NDArray[Any], opset: int = 20, double: bool = True, **weights: Any) -> NDArray[Any]:
    made = model(nodes, {"x": (x.shape, str(x.dtype))}, {"y": "float32"}, opset, **weights)
    return OnnxEvaluator(made, ["x"], double).run([x])[0]


def test_tails_are_precise() -> None:
    x = single([-5, -14, -16, -25, -30])
    wide = x.astype(np.float64)
    exact = {
        "Sigmoid": special.expit(wide),
        "Softplus": np.log1p(np.exp(wide)),
        "Mish": wide * np.tanh(np.log1p(np.exp(wide))),
        "Gelu": wide * special.ndtr(wide),
    }
    for operator, wanted in exact.items():
        found = run([helper.make_node(operator, ["x"], ["y"])], x)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, err_msg=operator)
    sure = run([helper.make_node("LogSoftmax", ["x"], ["y"])], single([0, 2000]))
    np.testing.assert_array_equal(sure, [-2000, 0])


def test_everything_is_float64() -> None:
    """Constants, casts, functions of the schema: nothing is rounded to float32 on the way."""
    third = helper.make_node("Constant", [], ["c"], value_float=1 / 3)
    nodes = [
        third,
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sin", ["f"], ["s"]),
        helper.make_node("Celu", ["s"], ["e"]),
        helper.make_node("MeanVarianceNormalization", ["e"], ["m"], axes=[0]),
        helper.make_node("Add", ["m", "c"], ["y"]),
    ]
    x = normal(50)
    e = np.sin(x.astype(np.float64))
    e = np.where(e > 0, e, np.expm1(e))
    wanted = (e - e.mean()) / (e.std() + 1e-9) + np.float64(np.float32(1 / 3))
    np.testing.assert_allclose(run(nodes, x), wanted, rtol=1e-8)


def test_functions_and_branches() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[4] x) => (float[4] y) {
        zero = Constant <value_float = 0.0> ()
        total = ReduceSum <keepdims = 0> (x)
        positive = Greater (total, zero)
        y = If (positive) <
            then_branch = a () => (float[4] t) { t = local.twice (x) },
            else_branch = b () => (float[4] e) { e = Sigmoid (x) }
        >
    }
    <opset_import: ["": 17], domain: "local"> twice (v) => (w) { s = Sigmoid (v)  w = Add (s, s) }
    """
    made = parser.parse_model(text)
    for x in (single([1, 2, -20, -30]) + 40, single([1, 2, -20, -30])):
        (found,) = OnnxEvaluator(made, ["x"], double=True).run([x])
        wanted = special.expit(x.astype(np.float64)) * (2 if x.sum() > 0 else 1)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_an_integer_division_by_zero_is_refused() -> None:
    made = model(
        [helper.make_node("Div", ["a", "b"], ["y"])], {"a": ([2], "int64"), "b": ([2], "int64")}, {"y": "int64"}
    )
    evaluator = OnnxEvaluator(made, ["a", "b"], double=True)
    assert evaluator.run([np.array([7, -7]), np.array([2, 2])])[0].tolist() == [3, -3]
    with pytest.raises(ZeroDivisionError):
        evaluator.run([np.array([7, -7]), np.array([2, 0])])


def test_disturbing_is_small_and_reproducible() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    x, w = normal(1, 8, 20, 20), normal(8, 8, 3, 3)
    made = model(nodes, {"x": (x.shape, "float32")}, {"y": "float32"}, w=w)
    own = OnnxEvaluator(made, ["x"], double=False)
    plain = own.run([x])[0]
    results = []
    for _ in range(2):
        own.freedom.choose(1, 1.0)
        results.append(own.run([x])[0])
    np.testing.assert_array_equal(results[0], results[1])
    error = np.abs(results[0] - plain).max() / np.sqrt(np.mean(plain**2))
    assert 1e-6 < error < 1e-4


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [True, False])
def test_weights_of_a_few_bits(bits: int, zeros: bool) -> None:
    packed = _RNG.integers(0, 256, (5, 3, 4 * bits)).astype(np.uint8)  # blocks of 32, of which the last one sticks out
    weights: dict[str, Any] = {"b": packed, "s": _RNG.uniform(0.1, 1, 15).astype(np.float32)}
    if zeros:
        weights["z"] = _RNG.integers(0, 256, 5 * -(-3 * bits // 8)).astype(np.uint8)
    attributes: dict[str, Any] = {"K": 70, "N": 5, "bits": bits, "block_size": 32}
    made = model([helper.make_node("Relu", ["x"], ["y"])], {"x": ((2, 70), "float32")}, {"y": "float32"}, **weights)
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5]))
    node = helper.make_node("MatMulNBits", ["x", *weights], ["y"], domain="com.microsoft", **attributes)
    made.graph.node[0].CopyFrom(node)
    x = normal(2, 70)
    (found,) = OnnxEvaluator(made, ["x"], double=True).run([x])
    np.testing.assert_allclose(found, by_onnxruntime(made, [x])[0], rtol=1e-4, atol=1e-4)


def test_weights_in_blocks_are_dequantised() -> None:
    x = _RNG.integers(-8, 8, (70, 3)).astype(np.int8)
    scale, zero = _RNG.uniform(0.1, 1, (3, 3)).astype(np.float32), _RNG.integers(-8, 8, (3, 3)).astype(np.int8)
    node = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], axis=0, block_size=32)
    made = model([node], {"x": (x.shape, "int8")}, {"y": "float32"}, 21, s=scale, z=zero)
    made.ir_version = 10
    (found,) = OnnxEvaluator(made, ["x"], double=True).run([x])
    np.testing.assert_allclose(found, by_onnxruntime(made, [x])[0], rtol=1e-5)
