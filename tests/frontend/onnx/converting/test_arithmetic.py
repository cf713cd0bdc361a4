"""Converters of our own compute what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.frontend.onnx.rewriting.computed import check_same, compile_and_run, int64, make, run, single
from tests.models import runs


def floats(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


NODES = [
    node("Max", ["x", "row", "column"], "max"),
    node("Min", ["x", "row"], "min"),
    node("Mean", ["x", "row", "column"], "mean"),
    node("CumSum", ["x", "axis"], "sums", exclusive=1, reverse=1),
    node("Expand", ["row", "shape"], "wide"),
    node("ReduceMax", ["low", "axes"], "highest", keepdims=0),
    node("ReduceMin", ["x"], "lowest"),
    node("BitShift", ["bits", "counts"], "left", direction="LEFT"),
    node("BitShift", ["bits", "counts"], "right", direction="RIGHT"),
    node("Mod", ["numbers", "divisors"], "rest"),
    node("Mod", ["x", "row"], "rest_of_floats", fmod=1),
    node("Equal", ["truth", "other"], "alike"),
    node("Pow", ["numbers", "three"], "cubes"),
    node("IsInf", ["low"], "infinite", detect_positive=0),
    node("Tile", ["x", "repeats"], "tiles"),
]
FEEDS: dict[str, Any] = {
    "x": floats(3, 4),
    "row": floats(4),
    "column": floats(3, 1),
    "low": single([[-np.inf, -np.inf], [1, np.inf], [-2, -3]]),
    "bits": np.asarray([1, 5, 200, 7], dtype=np.uint32),
    "counts": np.asarray([0, 3, 31, 2], dtype=np.uint32),
    "numbers": int64([-7, 7, -8, 9]),
    "divisors": int64([3, -3, -3, 4]),
    "truth": np.asarray([True, False, True]),
    "other": np.asarray([True, True, False]),
}
WEIGHTS: dict[str, Any] = {
    "axis": np.asarray(1),
    "axes": np.asarray([1]),
    "shape": np.asarray([2, 1, 4]),
    "three": np.asarray(3),
    "repeats": np.asarray([2, 3]),
}


@runs
def test_all_are_compiled_and_right(tmp_path: Path) -> None:
    model = make(NODES, FEEDS, [each.output[0] for each in NODES], **WEIGHTS)
    found, reasons = compile_and_run(model, FEEDS, tmp_path)
    assert reasons == []
    check_same(found, run(model, FEEDS))


@runs
def test_bits_and_products_of_the_newest_opset(tmp_path: Path) -> None:
    nodes = [
        node("CumProd", ["x", "axis"], "products", exclusive=1),
        node("CumProd", ["x", "axis"], "from_the_end", reverse=1),
        node("BitCast", ["x"], "bits", to=onnx.TensorProto.INT32),
    ]
    feeds = {"x": floats(3, 4)}
    model = make(nodes, feeds, ["products", "from_the_end", "bits"], 26, axis=np.asarray(1))
    found, reasons = compile_and_run(model, feeds, tmp_path)
    x = feeds["x"]
    assert reasons == []
    before = np.concatenate([np.ones((3, 1), dtype=np.float32), np.cumprod(x, axis=1)[:, :-1]], axis=1)
    check_same(found, [before, np.cumprod(x[:, ::-1], axis=1)[:, ::-1], x.view(np.int32)])
