"""Models of every element type compute what ONNX Runtime computes, and give what the model declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.frontend.onnx.small import agrees, by_runtime, make, model, read, same
from tests.models import normal, runs
from tilewright.executable.executable import load_executable
from tilewright.executable.manifest import read_manifest
from tilewright.frontend.load import load
from tilewright.tensor import TensorSpec
from tilewright.verify.inputs import find_trials
from tilewright.verify.judge import judge
from tilewright.verify.reference import open_reference

pytestmark = runs

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def test_integers_and_booleans_of_every_width(tmp_path: Path) -> None:
    """Moving, casting, and, where ONNX Runtime has it, arithmetic: all types in one model."""
    nodes: list[onnx.NodeProto] = []
    inputs: dict[str, tuple[str, tuple[int, ...]]] = {}
    outputs: dict[str, tuple[str, None]] = {}
    arrays: list[NDArray[Any]] = []
    rng = np.random.default_rng(0)
    for dtype in (*INTEGERS, "bool"):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        x = f"x_{dtype}"
        inputs[x] = (dtype, (3, 5))
        low, high = (0, 2) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        arrays.append(rng.integers(low, high, (3, 5), dtype=np.dtype(dtype) if dtype != "bool" else np.int64))
        arrays[-1] = arrays[-1].astype(dtype)
        steps = {
            "moved": helper.make_node("Transpose", [x], [f"moved_{dtype}"]),
            "joined": helper.make_node("Concat", [x, x], [f"joined_{dtype}"], axis=0),
            "flipped": helper.make_node("Slice", [x, "last", "before", "one", "back"], [f"flipped_{dtype}"]),
            "narrow": helper.make_node("Cast", [x], [f"narrow_{dtype}"], to=TensorProto.INT8),
            "wide": helper.make_node("Cast", [f"narrow_{dtype}"], [f"wide_{dtype}"], to=kind),
        }
        if dtype in ("int32", "int64", "uint32", "uint64"):
            steps["sum"] = helper.make_node("Add", [x, x], [f"sum_{dtype}"])
            steps["product"] = helper.make_node("Mul", [x, x], [f"product_{dtype}"])
        nodes += steps.values()
        outputs |= {f"{name}_{dtype}": ("int8" if name == "narrow" else dtype, None) for name in steps}
    weights = {
        "last": np.asarray([4]),
        "before": np.asarray([-100]),
        "one": np.asarray([1]),
        "back": np.asarray([-2]),
    }
    made = model(nodes, inputs, outputs, weights)
    extraction = agrees(onnx.shape_inference.infer_shapes(made), tmp_path, *arrays)
    assert extraction.network.segments == ()
    assert [spec.dtype for spec in extraction.network.inputs] == [*INTEGERS, "bool"]


def test_float64_is_computed_in_float64(tmp_path: Path) -> None:
    """ONNX Runtime has no convolution in float64, and TVM compiles it all the same."""
    weights = {"w": normal(5, 3, 1, 1).astype(np.float64), "b": normal(5).astype(np.float64)}
    ends = {"x": ("float64", (2, 3, 4, 8))}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    x = normal(2, 3, 4, 8, seed=1).astype(np.float64)
    extraction, executable = make(model(nodes, ends, {"y": ("float64", None)}, weights), tmp_path, scheduled=True)
    assert extraction.network.segments == ()
    kernel = weights["w"].reshape(5, 3)
    expected = np.einsum("oc,nchw->nohw", kernel, x) + weights["b"].reshape(5, 1, 1)
    same(executable(x)[0], expected, relative=1e-12)

    (tmp_path / "more").mkdir()
    more = {"w": normal(8, 8).astype(np.float64), "s": np.asarray(0.5)}
    steps = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "s"], ["c"]),
        helper.make_node("Softmax", ["c"], ["soft"], axis=-1),
        helper.make_node("Tanh", ["c"], ["tanh"]),
        helper.make_node("ReduceMean", ["c"], ["mean"], axes=[1]),
    ]
    made = model(steps, ends, {name: ("float64", None) for name in ("soft", "tanh", "mean")}, more)
    agrees(onnx.shape_inference.infer_shapes(made), tmp_path / "more", x, relative=1e-7)


def half_model() -> onnx.ModelProto:
    """A convolution, a branch that reads a float16 from outside, and outputs of two types."""
    branches = {
        f"{kind}_branch": helper.make_graph(
            [helper.make_node(operator, ["r"], [kind])],
            kind,
            [],
            [helper.make_tensor_value_info(kind, TensorProto.FLOAT16, [1, 16, 10, 10])],
        )
        for kind, operator in (("then", "Neg"), ("else", "Identity"))
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("If", ["flag"], ["y"], **branches),
        helper.make_node("Cast", ["r"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide"], ["z"], axes=[2, 3]),
        helper.make_node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.asarray([1.5, 2.5], np.float16))),
    ]
    ends: dict[str, tuple[str, tuple[int, ...] | None]] = {"x": ("float16", (1, 8, 10, 10)), "flag": ("bool", ())}
    outputs = {"y": ("float16", (1, 16, 10, 10)), "z": ("float32", (1, 16, 1, 1)), "k": ("float16", (2,))}
    weights = {"w": (0.1 * normal(16, 8, 3, 3)).astype(np.float16), "b": normal(16).astype(np.float16)}
    return model(nodes, ends, outputs, weights)


def test_float16_is_computed_in_float32_and_kept_in_float16(tmp_path: Path) -> None:
    made = half_model()
    extraction, executable = make(made, tmp_path, scheduled=True)
    assert [spec.dtype for spec in executable.inputs] == ["float16", "bool"]
    assert [spec.dtype for spec in executable.outputs] == ["float16", "float32", "float16"]
    x = normal(1, 8, 10, 10).astype(np.float16)
    for flag in (True, False):
        found = executable(x, flag)
        for ours, theirs in zip(found, by_runtime(made, [x, np.asarray(flag)]), strict=True):
            same(ours, theirs, relative=4e-3)
    # As the model's mathematics has it, to the last digit of float32.
    weight, bias = (onnx.numpy_helper.to_array(t).astype(np.float64) for t in made.graph.initializer)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    exact = np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight) + bias.reshape(16, 1, 1), 0)
    np.testing.assert_allclose(found[1], exact.mean(axis=(2, 3), keepdims=True), rtol=1e-5)
    assert "float16" in read_manifest(tmp_path / "out")["narrow"].values()
    assert (tmp_path / "out" / "weights.npz").stat().st_size < 3 * 2 * 16 * 8 * 9
    assert "float32" in {str(array.dtype) for array in extraction.network.weights.values()}


def test_the_verdict_on_float16_is_by_float64_and_the_rounding_of_outputs(tmp_path: Path) -> None:
    text = "g (float16[4,32] x) => (float16[4,16] y) { a = MatMul(x, w) y = Tanh(a) }"
    made = read(text)
    made.graph.initializer.append(onnx.numpy_helper.from_array((0.2 * normal(32, 16)).astype(np.float16), "w"))
    onnx.save(made, tmp_path / "m.onnx")
    network = load(tmp_path / "m.onnx")
    with open_reference(network) as reference:
        trials = find_trials(network, reference, seconds=5.0)
    weight = onnx.numpy_helper.to_array(made.graph.initializer[0]).astype(np.float32)
    verdict = judge(lambda inputs: [np.tanh(inputs[0].astype(np.float32) @ weight).astype(np.float16)], trials)
    assert (verdict.outcome.value, verdict.precision) == ("right", "float64"), verdict.evidence
    off = judge(lambda inputs: [np.tanh(1.02 * inputs[0].astype(np.float32) @ weight).astype(np.float16)], trials)
    assert off.wrong
    wide = judge(lambda inputs: [np.tanh(inputs[0].astype(np.float32) @ weight)], trials)
    assert "float32 instead of float16" in wide.evidence


def test_bfloat16_is_float32_at_the_border(tmp_path: Path) -> None:
    """ONNX Runtime runs hardly any operator in bfloat16."""
    import ml_dtypes

    made = read("g (bfloat16[4,32] x) => (bfloat16[4,16] y, bfloat16[4,32] z) { y = MatMul(x, w) z = Relu(x) }")
    weight = normal(32, 16).astype(ml_dtypes.bfloat16)
    tensor = made.graph.initializer.add(name="w", data_type=TensorProto.BFLOAT16, dims=weight.shape)
    tensor.raw_data = weight.tobytes()
    _, executable = make(made, tmp_path)
    assert {spec.dtype for spec in (*executable.inputs, *executable.outputs)} == {"float32"}
    x = normal(4, 32, seed=1).astype(ml_dtypes.bfloat16)
    wide = x.astype(np.float32)
    for given in (x, wide):
        y, z = executable(given)
        same(y, wide @ weight.astype(np.float32))
        same(z, np.maximum(wide, 0))
    assert set(read_manifest(tmp_path / "out")["narrow"].values()) == {"bfloat16"}
    with open_reference(load(tmp_path / "m.onnx")) as reference:
        trials = find_trials(load(tmp_path / "m.onnx"), reference, seconds=5.0)
    assert judge(lambda inputs: executable(*inputs), trials).right


def test_weights_of_a_segment_stay_narrow(tmp_path: Path) -> None:
    """What runs in ONNX Runtime is computed in float32, too."""
    made = read("g (float16[8,64] x) => (int64[2,n] y) { a = MatMul(x, w) y = NonZero(a) }")
    made.graph.initializer.append(onnx.numpy_helper.from_array(normal(64, 64).astype(np.float16), "w"))
    x = np.zeros((8, 64), np.float16)
    x[::2] = normal(4, 64).astype(np.float16)
    onnx.save(made, tmp_path / "m.onnx")
    network = load(tmp_path / "m.onnx")
    from tests.models import TARGET
    from tilewright.compiling.build import build
    from tilewright.graph.left_out import leave_out_all
    from tilewright.graph.tasks import extract

    build(extract(leave_out_all(network, "a test"), TARGET), {}, tmp_path / "out", {})
    executable = load_executable(tmp_path / "out")
    same(executable(x)[0], by_runtime(made, [x])[0])
    assert (tmp_path / "out" / "segment0.onnx").stat().st_size < 3 * 64 * 64


def test_scalars_and_tensors_of_one_element(tmp_path: Path) -> None:
    text = """
        g (float s, float[1] v, int64 n, float[3] x) =>
          (float sum, float[1] product, int64 more, float[3] scaled, float total, float[1,1] grown, bool[1] above) {
            sum = Add(s, half)
            product = Mul(v, s)
            more = Add(n, one)
            scaled = Mul(x, s)
            total = ReduceSum<keepdims = 0>(x)
            grown = Unsqueeze(v, zero)
            above = Greater(v, s)
        }"""
    made = read(text)
    for name, array in {"half": np.float32(0.5), "one": np.int64(1), "zero": np.asarray([0])}.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    inputs = [np.float32(1.25), np.asarray([-2.0], np.float32), np.int64(7), normal(3)]
    extraction = agrees(made, tmp_path, *map(np.asarray, inputs))
    assert extraction.network.segments == ()
    assert extraction.network.inputs[0] == TensorSpec("s", (), "float32")


def test_tensors_without_elements(tmp_path: Path) -> None:
    """A batch of 0 gives outputs without rows, and what is computed from nothing is what ONNX says."""
    text = """
        g (float[0,16] x, float[2,8] z) => (float[0,8] y, float[2,8] joined, float[1,8] sums, float[2,0] parts) {
            a = MatMul(x, w)
            y = Relu(a)
            joined = Concat<axis = 0>(y, z)
            sums = ReduceSum(y, rows)
            parts = Slice(z, from, to, columns)
        }"""
    made = read(text)
    weights = {"w": normal(16, 8), "rows": [0], "from": [3], "to": [3], "columns": [1]}
    for name, array in weights.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    agrees(made, tmp_path, np.zeros((0, 16), np.float32), normal(2, 8))
