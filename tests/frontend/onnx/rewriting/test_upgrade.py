"""Operators of old opsets become those of opset 18, and compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.frontend.onnx.rewriting.computed import check_same, make, run, single
from tilewright.frontend.onnx.rewriting.upgrade import OLDEST, upgrade


def floats(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


X = floats(2, 3, 4, 6)
SCALES: dict[str, Any] = {"s": single([1, 1, 2, 2])}
MIXED: dict[str, Any] = {"s": single([1, 1, 0.5, 2])}


def node(kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [f"y{i}" for i in range(outputs)], **attributes)


#: The node, its opset, and its weights.
CASES: dict[str, tuple[onnx.NodeProto, int, dict[str, Any]]] = {
    "upsample by an attribute": (node("Upsample", "x", scales=[1.0, 1.0, 2.0, 3.0], mode="nearest"), 7, {}),
    "linear upsample": (node("Upsample", "x", scales=[1.0, 1.0, 2.0, 3.0], mode="linear"), 7, {}),
    "upsample by an input": (node("Upsample", "x", "s", mode="nearest"), 9, SCALES),
    "resize": (node("Resize", "x", "s", mode="linear"), 10, SCALES),
    "resize up and down": (node("Resize", "x", "s", mode="nearest"), 10, MIXED),
    "clip": (node("Clip", "x", min=-0.5, max=0.5), 6, {}),
    "clip from above": (node("Clip", "x", max=0.5), 7, {}),
    "pad": (node("Pad", "x", pads=[0, 0, 1, 2, 0, 0, 0, 1], value=1.5), 7, {}),
    "slice": (node("Slice", "x", starts=[1, -3], ends=[3, 99], axes=[1, 3]), 7, {}),
    "top k": (node("TopK", "x", k=2, axis=1, outputs=2), 7, {}),
    "split": (node("Split", "x", axis=3, split=[1, 2, 3], outputs=3), 7, {}),
    "split evenly": (node("Split", "x", axis=3, outputs=3), 7, {}),
    "split of opset 13": (node("Split", "x", axis=3, outputs=3), 13, {}),
    "sum": (node("ReduceSum", "x", axes=[1, 2], keepdims=0), 7, {}),
    "mean of opset 13": (node("ReduceMean", "x", axes=[-1]), 13, {}),
    "maximum of everything": (node("ReduceMax", "x"), 12, {}),
    "squeeze": (node("Squeeze", "one", axes=[1]), 7, {"one": floats(3, 1, 2)}),
    "unsqueeze": (node("Unsqueeze", "x", axes=[0, 2]), 11, {}),
    "softmax": (node("Softmax", "x", axis=2), 7, {}),
    "softmax of the last axis": (node("Softmax", "x", axis=3), 11, {}),
    "log softmax": (node("LogSoftmax", "x"), 11, {}),
    "dropout": (node("Dropout", "x", ratio=0.3), 7, {}),
    "batch norm": (
        node("BatchNormalization", "x", "a", "b", "c", "d", epsilon=0.1),
        9,
        {"a": floats(3), "b": floats(3), "c": floats(3), "d": np.abs(floats(3))},
    ),
    "batch norm of each element": (
        node("BatchNormalization", "x", "a", "b", "c", "d", spatial=0),
        7,
        {n: np.abs(floats(3, 4, 6)) + i for i, n in enumerate("abcd")},
    ),
    "scatter": (
        node("Scatter", "x", "i", "u", axis=1),
        9,
        {"i": np.zeros((2, 1, 4, 6), dtype=np.int64), "u": floats(2, 1, 4, 6)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_is_computed(name: str) -> None:
    made_of, opset, weights = CASES[name]
    model = make([made_of], {"x": X}, list(made_of.output), opset=opset, **weights)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    assert upgrade(made)
    assert [o.version for o in made.opset_import] == [OLDEST]
    onnx.checker.check_model(made, full_check=True)
    check_same(run(made, {"x": X}), run(model, {"x": X}))


def test_a_newer_model_stays_as_it_is() -> None:
    model = make([node("Relu", "x")], {"x": X}, ["y0"], opset=20)
    before = model.SerializeToString()
    assert upgrade(model)
    assert model.SerializeToString() == before


def test_graphs_inside_of_graphs_are_upgraded_too() -> None:
    inner = [
        helper.make_graph(
            [
                helper.make_node("ReduceMax", ["x"], [f"{which}"], axes=[1]),
            ],
            which,
            [],
            [helper.make_tensor_value_info(which, TensorProto.FLOAT, None)],
        )
        for which in ("then", "else")
    ]
    choice = helper.make_node("If", ["c"], ["y"], then_branch=inner[0], else_branch=inner[1])
    feeds = {"c": np.asarray(True), "x": X}
    model = make([choice], feeds, ["y"], opset=11)
    right = run(model, feeds)
    assert upgrade(model)
    check_same(run(model, feeds), right)


def test_what_opset_18_cannot_say_stays() -> None:
    how: dict[str, Any] = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "mode": "nearest"}
    model = make(
        [node("Resize", "x", "r", "s", **how)], {"x": X}, ["y0"], opset=11, r=np.zeros(0, np.float32), **SCALES
    )
    before = model.SerializeToString()
    assert not upgrade(model)
    assert model.SerializeToString() == before


def test_weights_that_are_inputs_of_an_old_file_stay_constants() -> None:
    model = make([node("Mul", "x", "w")], {"x": X, "w": single([2])}, ["y0"], opset=7)
    model.ir_version = 3
    model.graph.initializer.append(numpy_helper.from_array(single([2]), "w"))
    assert upgrade(model)
    assert [value.name for value in model.graph.input] == ["x"]
