"""Small models that once were refused, or computed wrong: they are compiled whole, and right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.frontend.onnx.rewriting.computed import check_same, compile_and_run, int64, make, run, single


def floats(*shape: int) -> Any:
    rng = np.random.default_rng(len(shape))
    return (rng.standard_normal(shape) * np.sqrt(2 / max(1, int(np.prod(shape[1:]))))).astype(np.float32)


IMAGE = {"x": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}
SCALES = single([1, 1, 2, 2])


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


def upsample() -> tuple[onnx.ModelProto, dict[str, Any]]:
    nodes = [
        node("Conv", ["x", "w1"], "a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("LeakyRelu", ["a"], "b", alpha=0.1),
        node("Upsample", ["b", "s"], "u", mode="nearest"),
        node("Concat", ["u", "x"], "c", axis=1),
        node("Conv", ["c", "w2"], "y"),
    ]
    return make(nodes, IMAGE, ["y"], 9, w1=floats(16, 3, 3, 3), s=SCALES, w2=floats(8, 19, 1, 1)), IMAGE


def resize() -> tuple[onnx.ModelProto, dict[str, Any]]:
    nodes = [
        node("Conv", ["x", "w1"], "a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Resize", ["a", "s"], "u", mode="linear"),
        node("Conv", ["u", "w2"], "y"),
    ]
    return make(nodes, IMAGE, ["y"], 10, w1=floats(16, 3, 3, 3), s=SCALES, w2=floats(8, 16, 1, 1)), IMAGE


def fused_conv() -> tuple[onnx.ModelProto, dict[str, Any]]:
    how = {"domain": "com.microsoft", "activation": "Relu", "pads": [1, 1, 1, 1]}
    nodes = [node("FusedConv", ["x", "w1", "b1"], "a", **how), node("Conv", ["a", "w2"], "y")]
    weights = {"w1": floats(16, 3, 3, 3), "b1": floats(16), "w2": floats(8, 16, 1, 1)}
    return make(nodes, IMAGE, ["y"], 17, ("com.microsoft",), **weights), IMAGE


def attention() -> tuple[onnx.ModelProto, dict[str, Any]]:
    feeds = {n: np.random.default_rng(i).standard_normal((1, 4, 8, 16)).astype(np.float32) for i, n in enumerate("qkv")}
    nodes = [
        node("Attention", ["q", "k", "v"], "a", is_causal=1),
        node("Transpose", ["a"], "b", perm=[0, 2, 1, 3]),
        node("Reshape", ["b", "s"], "c"),
        node("MatMul", ["c", "w"], "y"),
    ]
    return make(nodes, feeds, ["y"], 23, s=int64([1, 8, 64]), w=floats(64, 32)), feeds


def norms() -> tuple[onnx.ModelProto, dict[str, Any]]:
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)}
    nodes = [
        node("Conv", ["x", "w1"], "a", pads=[1, 1, 1, 1]),
        node("GroupNormalization", ["a", "s", "b"], "g", num_groups=4),
        node("Sigmoid", ["g"], "h"),
        node("Mul", ["g", "h"], "c"),
        node("InstanceNormalization", ["c", "s", "b"], "e"),
        node("Add", ["e", "a"], "y"),
    ]
    return make(nodes, feeds, ["y"], 21, w1=floats(16, 3, 3, 3), s=floats(16), b=floats(16)), feeds


def embedding() -> tuple[onnx.ModelProto, dict[str, Any]]:
    feeds = {"ids": np.random.default_rng(0).integers(-50, 50, (1, 8))}
    nodes = [node("Gather", ["e", "ids"], "a"), node("MatMul", ["a", "w"], "y")]
    return make(nodes, feeds, ["y"], 17, e=floats(50, 32), w=floats(32, 32)), feeds


def integer_power() -> tuple[onnx.ModelProto, dict[str, Any]]:
    feeds = {"x": np.random.default_rng(0).integers(-5, 5, (4, 8))}
    return make([node("Pow", ["x", "two"], "y")], feeds, ["y"], 17, two=np.asarray(2)), feeds


@pytest.mark.parametrize("made", [upsample, resize, fused_conv, attention, norms, embedding, integer_power])
def test_it_is_compiled_and_right(made: Any, tmp_path: Path) -> None:
    model, feeds = made()
    found, reasons = compile_and_run(model, feeds, tmp_path)
    assert reasons == []
    check_same(found, run(model, feeds), 1e-5)
