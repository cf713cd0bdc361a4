"""Control flow and sequences whose course is known disappear when a model is read, and give the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench._operators import run_reference
from tilewright.frontend.onnx.rewriting.rewrite import rewrite

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def info(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes: list[onnx.NodeProto], outputs: list[str], opset: int = 18, **weights: Any) -> onnx.ModelProto:
    ends = [info(name, None, TensorProto.UNDEFINED) for name in outputs]
    constants = [numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items()]
    graph = helper.make_graph(nodes, "g", [info("x", X.shape)], ends, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(made)


def branch(kind: str, name: str) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node(kind, ["x"], [name])], name, [], [info(name, X.shape)])


def loop(times: int | None, condition: bool | None = True) -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["v", "f"], ["a"]),
            helper.make_node("Mul", ["a", "x"], ["w"]),
            helper.make_node("Identity", ["c"], ["d"]),
            helper.make_node("ReduceSum", ["w"], ["s"], keepdims=0),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("c", [], TensorProto.BOOL), info("v", X.shape)],
        [info("d", [], TensorProto.BOOL), info("w", X.shape), info("s", [])],
    )
    node = helper.make_node("Loop", ["m", "" if condition is None else "k", "x"], ["y", "z"], body=body)
    return model([node], ["y", "z"], m=np.asarray(times, np.int64), k=np.asarray(bool(condition)))


def scan(backwards: int) -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "v"], ["t"]), helper.make_node("Relu", ["t"], ["o"])],
        "body",
        [info("s", [3]), info("v", [3])],
        [info("t", [3]), info("o", [3])],
    )
    node = helper.make_node(
        "Scan",
        ["start", "x"],
        ["y", "z"],
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_input_directions=[backwards],
        scan_output_directions=[backwards],
        scan_output_axes=[1],
    )
    return model([node], ["y", "z"], start=np.zeros(3, np.float32))


def sequence() -> onnx.ModelProto:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["a"], axis=0, keepdims=0),
        helper.make_node("SequenceAt", ["a", "one"], ["row"]),
        helper.make_node("SequenceEmpty", [], ["b"], dtype=TensorProto.FLOAT),
        helper.make_node("SequenceInsert", ["b", "row"], ["c"]),
        helper.make_node("SequenceInsert", ["c", "other", "zero"], ["d"]),
        helper.make_node("SequenceInsert", ["d", "other"], ["e"]),
        helper.make_node("SequenceErase", ["e", "zero"], ["f"]),
        helper.make_node("ConcatFromSequence", ["f"], ["y"], axis=0, new_axis=1),
        helper.make_node("SequenceLength", ["f"], ["z"]),
    ]
    weights = {"one": np.asarray(-2, np.int64), "zero": np.asarray(0, np.int64), "other": np.ones(4, np.float32)}
    return model(nodes, ["y", "z"], 18, **weights)


def optional() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Optional", ["x"], ["o"]),
        helper.make_node("OptionalHasElement", ["o"], ["z"]),
        helper.make_node("OptionalGetElement", ["o"], ["v"]),
        helper.make_node("Relu", ["v"], ["y"]),
    ]
    return model(nodes, ["y", "z"])


def computed_if() -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["t"], keepdims=0),
        helper.make_node("Greater", ["t", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Exp", "e"), else_branch=branch("Neg", "n")),
    ]
    return model(nodes, ["y"], zero=np.asarray(0, np.float32))


def constant_if() -> onnx.ModelProto:
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("Exp", "e"), else_branch=branch("Neg", "n"))
    return model([node], ["y"], c=np.asarray(False))


MODELS: Mapping[str, onnx.ModelProto] = {
    "constant if": constant_if(),
    "computed if": computed_if(),
    "loop": loop(4),
    "loop without a condition": loop(3, None),
    "scan": scan(0),
    "scan from the end": scan(1),
    "sequence": sequence(),
    "optional": optional(),
}
GONE = ("If", "Loop", "Scan", "SequenceAt", "SequenceInsert", "SplitToSequence", "Optional", "OptionalGetElement")


@pytest.mark.parametrize("name", MODELS)
def test_it_disappears_and_the_result_is_the_same(name: str) -> None:
    made = onnx.ModelProto()
    made.CopyFrom(MODELS[name])
    assert rewrite(made)
    assert not {node.op_type for node in made.graph.node} & set(GONE)
    wanted, found = run_reference(MODELS[name], {"x": X}), run_reference(made, {"x": X})
    for key, right in wanted.items():
        assert found[key].dtype == right.dtype
        np.testing.assert_allclose(found[key].astype(float), right.astype(float), rtol=1e-6)


@pytest.mark.parametrize("made", [loop(33), loop(0), loop(3, False)], ids=["long", "empty", "never"])
def test_what_is_long_or_gives_nothing_stays(made: onnx.ModelProto) -> None:
    rewrite(made)
    assert [node.op_type for node in made.graph.node] == ["Loop"]
