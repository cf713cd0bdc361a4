"""Whatever way a model is written in, it computes the same: names, constants, inputs and outputs of every form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.frontend.onnx.small import agrees, by_runtime, make, model, read, same
from tests.models import normal, runs
from tilewright.frontend.load import load

pytestmark = runs


def test_constants_in_every_attribute(tmp_path: Path) -> None:
    values = helper.make_tensor("values", TensorProto.FLOAT, [2], [5.0, -7.0])
    places = helper.make_tensor("places", TensorProto.INT64, [2], [1, 3])
    sparse = helper.make_sparse_tensor(values, places, [4])
    constants = {
        "value": helper.make_tensor("value", TensorProto.FLOAT, [4], [1, 2, 3, 4]),
        "value_float": 0.5,
        "value_floats": [1.0, 2.0, 3.0, 4.0],
        "value_int": 3,
        "value_ints": [1, 2, 3, 4],
        "sparse_value": sparse,
    }
    nodes, inputs = [], []
    for name, constant in constants.items():
        node = helper.make_node("Constant", [], [name])
        node.attribute.append(helper.make_attribute(name, constant))
        cast = helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT)
        nodes += [node, cast]
        inputs.append(f"{name}_f")
    nodes.append(helper.make_node("Sum", ["x", *inputs], ["y"]))
    nodes.append(helper.make_node("Add", ["x", "weight"], ["z"]))
    nodes.append(helper.make_node("Constant", [], ["texts"], value_strings=["one", "two"]))
    ends = {"y": ("float32", (4,)), "z": ("float32", (2, 4)), "value_ints": ("int64", (4,))}
    made = model(nodes, {"x": ("float32", (4,))}, ends)
    made.graph.output.append(helper.make_tensor_value_info("texts", TensorProto.STRING, [2]))
    weight = helper.make_sparse_tensor(
        helper.make_tensor("weight", TensorProto.FLOAT, [2], [3.0, 4.0]),
        helper.make_tensor("weight_places", TensorProto.INT64, [2, 2], [0, 1, 1, 2]),
        [2, 4],
    )
    made.graph.sparse_initializer.append(weight)
    extraction, executable = make(made, tmp_path)
    x = normal(4)
    y, z, ints, texts = executable(x)
    same(y, x + 0.5 + 3 + 3 * np.arange(1, 5, dtype=np.float32) + np.asarray([0, 5, 0, -7], np.float32))
    same(z, x + np.asarray([[0, 3, 0, 0], [0, 0, 4, 0]], np.float32))
    same(ints, np.arange(1, 5))
    assert list(texts) == ["one", "two"]
    assert [segment.operators for segment in extraction.network.segments] == [("Identity",)]


def test_inputs_and_outputs_of_every_form(tmp_path: Path) -> None:
    """An input that is an output, a tensor that is returned twice, constant outputs, unused inputs and weights."""
    text = """
        g (float[2,4] x, int32[3] unused, float[4] preset) =>
          (float[2,4] y, float[2,4] x, float[2,4] again, float[4] fixed, float[4] folded, int32[3] passed) {
            y = Add(x, preset)
            again = Identity(y)
            folded = Neg(fixed)
            passed = Identity(unused)
        }"""
    made = read(text)
    for name in ("preset", "fixed", "idle"):
        made.graph.initializer.append(onnx.numpy_helper.from_array(normal(4, seed=len(name)), name))
    extraction = agrees(made, tmp_path, normal(2, 4), np.arange(3, dtype=np.int32))
    assert [spec.name for spec in extraction.network.inputs] == ["x", "unused"]
    assert extraction.network.segments == ()


def test_weights_of_old_files_are_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    ends = {"x": ("float32", (2, 8)), "w": ("float32", (8, 16)), "b": ("float32", (16,))}
    made = model(nodes, ends, {"y": ("float32", (2, 16))}, {"w": normal(8, 16), "b": normal(16)}, opset=9, ir=3)
    extraction = agrees(made, tmp_path, normal(2, 8, seed=1))
    assert [spec.name for spec in extraction.network.inputs] == ["x"]


def test_names_of_every_form(tmp_path: Path) -> None:
    """Names that the importer would take for each other, or that are no names of variables."""
    x, y = "a.b", "out: é/'\";"
    nodes = [
        helper.make_node("Add", [x, "a_b"], ["lv"], name=""),
        helper.make_node("Mul", ["lv", "onnx::w"], ["1"], name="/a:0 b"),
        helper.make_node("Add", ["1", "w"], ["gv 2"], name=""),
        helper.make_node("Slice", ["gv 2", "lv1", "lv2"], [y]),
    ]
    weights = {
        "a_b": normal(4, seed=1),
        "onnx::w": normal(4, seed=2),
        "w": normal(4, seed=3),
        "lv1": np.asarray([0]),
        "lv2": np.asarray([2]),
    }
    made = model(nodes, {x: ("float32", (4, 4))}, {y: ("float32", (2, 4))}, weights)
    extraction = agrees(made, tmp_path, normal(4, 4))
    assert [spec.name for spec in (*extraction.network.inputs, *extraction.network.outputs)] == [x, y]


def test_outputs_that_nobody_reads_and_inputs_that_are_absent(tmp_path: Path) -> None:
    text = """
        g (float[1,4,8,8] x) => (float[1,4,4,4] y, float[1,4,8,8] z, float[1,2,8,8] half) {
            y, places = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x)
            d, mask = Dropout(x)
            z = Clip(d, , top)
            half, rest = Split<axis = 1>(x, sizes)
        }"""
    made = read(text)
    for name, array in {"top": np.float32(0.5), "sizes": np.asarray([2, 2])}.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    assert agrees(made, tmp_path, normal(1, 4, 8, 8)).network.segments == ()


def test_names_that_occur_in_both_branches(tmp_path: Path) -> None:
    made = read("""
        g (float[4,4] x, bool c) => (float[4,4] y) {
            y = If(c) <
                then_branch = t () => (float[4,4] r) { a = Neg(x) r = Exp(a) },
                else_branch = e () => (float[4,4] r) { a = Relu(x) r = Abs(a) }
            >
        }""")
    _, executable = make(made, tmp_path)
    for flag in (True, False):
        inputs = [normal(4, 4), np.asarray(flag)]
        same(executable(*inputs)[0], by_runtime(made, inputs)[0])


def test_a_model_without_inputs_and_one_of_an_identity(tmp_path: Path) -> None:
    made = read("g () => (float[2,3] y, int64[3] r) { y = Exp(w) r = Range(first, last, step) }")
    arrays = {"w": normal(2, 3), "first": np.int64(1), "last": np.int64(7), "step": np.int64(2)}
    for name, array in arrays.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    agrees(made, tmp_path)
    (tmp_path / "identity").mkdir()
    made = read("g (int8[3] x) => (int8[3] y) { y = Identity(x) }")
    extraction = agrees(made, tmp_path / "identity", np.asarray([1, -2, 3], np.int8))
    assert extraction.uses == ()


def test_a_default_of_an_input_is_folded(tmp_path: Path) -> None:
    """A batch norm folds into a convolution whose weights are listed as inputs, too."""
    text = """
        g (float[1,4,6,6] x, float[8,4,3,3] w) => (float[1,8,4,4] y) {
            c = Conv(x, w)
            y = BatchNormalization(c, s, s, s, s)
        }"""
    made = read(text)
    made.graph.initializer.append(onnx.numpy_helper.from_array(normal(8, 4, 3, 3), "w"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.abs(normal(8)), "s"))
    onnx.save(made, tmp_path / "m.onnx")
    network = load(tmp_path / "m.onnx")
    assert network.folded is not None
    assert [node.op_type for node in network.folded.graph.node] == ["Conv"]
