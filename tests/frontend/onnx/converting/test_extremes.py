"""Extreme elements and their places, where all elements are the lowest or the highest number, infinite, or NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.frontend.onnx.rewriting.computed import check_same, compile_and_run, make, run, single
from tests.models import runs

pytestmark = runs


def node(kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, list(outputs), **attributes)


def compute(nodes: list[onnx.NodeProto], feeds: dict[str, Any], folder: Path, **weights: Any) -> list[Any]:
    """The outputs of kernels. No operator may be in a segment."""
    model = make(nodes, feeds, [name for each in nodes for name in each.output], **weights)
    found, reasons = compile_and_run(model, feeds, folder)
    assert reasons == []
    return found


def test_places_lie_inside_of_the_axis(tmp_path: Path) -> None:
    low, high = {}, {}
    for name in ("uint8", "int8", "int32", "int64"):
        limits = np.iinfo(name)
        low[name], high[name] = (np.full((2, 4), limit, dtype=name) for limit in (limits.min, limits.max))
    for name in ("float32", "float64"):
        low[name], high[name] = (np.full((2, 4), limit, dtype=name) for limit in (-np.inf, np.inf))
        low[name][1] = np.finfo(np.dtype(name)).min
    feeds = {f"low_{k}": v for k, v in low.items()} | {f"high_{k}": v for k, v in high.items()}
    nodes = [
        node("ArgMax" if name.startswith("low") else "ArgMin", [name], f"{name}{last}", axis=1, select_last_index=last)
        for name in feeds
        for last in (0, 1)
    ]
    nodes.append(node("Hardmax", ["low_float32"], "hard"))
    check_same(compute(nodes, feeds, tmp_path), run(make(nodes, feeds, [each.output[0] for each in nodes]), feeds))


def test_nan_is_skipped_unless_it_is_first(tmp_path: Path) -> None:
    nan = np.nan
    x = single([[nan, 1, 2, 0], [1, nan, 0, 3], [nan] * 4, [2, 1, nan, 0], [0, 1, nan, 1]])
    nodes = [
        node(kind, ["x"], f"{kind}{last}", axis=-1, keepdims=0, select_last_index=last)
        for kind in ("ArgMax", "ArgMin")
        for last in (0, 1)
    ]
    nodes += [node("TopK", ["x", "two"], "values", "places"), node("TopK", ["x", "two"], "v", "p", largest=0)]
    *found, values, places, lowest, _ = compute(nodes, {"x": x}, tmp_path, two=np.asarray([2]))
    check_same(found, run(make(nodes[:4], {"x": x}, [each.output[0] for each in nodes[:4]]), {"x": x}))
    order = np.stack([np.lexsort((np.arange(4), -row, ~np.isnan(row))) for row in x])[:, :2]
    check_same([values, places], [np.take_along_axis(x, order, 1), order])
    check_same([lowest], [np.sort(x, axis=1)[:, :2]])


def test_infinities_stay(tmp_path: Path) -> None:
    sums = single([[1, np.inf, 2, np.inf], [-np.inf] * 4, [-np.inf, 1, 2, 3], [-1000, -1001, -999, -1000]])
    image = np.full((1, 2, 6, 6), -np.inf, dtype=np.float32)
    image[0, 1, :2, :2] = 1
    nodes = [
        node("ReduceLogSumExp", ["sums", "axes"], "rows", keepdims=0),
        node("ReduceLogSumExp", ["sums"], "all"),
        node("MaxPool", ["image"], "plain", kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", ["image"], "padded", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("MaxPool", ["line"], "short", kernel_shape=[3], pads=[1, 1]),
        node("MaxPool", ["image"], "highest", "place", kernel_shape=[3, 3]),
    ]
    feeds = {"sums": sums, "image": image, "line": image.reshape(1, 2, 36)}
    found = compute(nodes, feeds, tmp_path, axes=np.asarray([1]))
    model = make(nodes, feeds, [name for each in nodes for name in each.output], axes=np.asarray([1]))
    right = run(model, feeds)
    for place in (3, 4):  # ONNX Runtime begins the maximum of a padded window with the lowest finite number
        right[place] = np.where(right[place] < 0, -np.inf, right[place]).astype(np.float32)
    check_same(found, right)


def test_signs_and_hyperbolic_functions(tmp_path: Path) -> None:
    x = single([0, 1e-7, -1e-4, 0.01, -1, 5, -20, 88, 89.2, -90])
    feeds = {
        "x": x,
        "wide": np.linspace(-3, 3, 7),
        "small": np.asarray([0, 1, 200], np.uint8),
        "big": np.asarray([0, 7], np.uint64),
    }
    nodes = [
        *(node(kind, [name], f"{kind}_{name}") for name in ("x", "wide") for kind in ("Sinh", "Cosh")),
        *(node("Sign", [name], f"sign_{name}") for name in ("small", "big")),
    ]
    found = compute(nodes, feeds, tmp_path)
    right = [f(feeds[name]) for name in ("x", "wide") for f in (sinh, cosh)]
    for a, b in zip(found, right, strict=False):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=0)
    check_same(found[4:], [np.asarray([0, 1, 1], np.uint8), np.asarray([0, 1], np.uint64)])


def sinh(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.sinh(x.astype(np.float64)).astype(x.dtype)


def cosh(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.cosh(x.astype(np.float64)).astype(x.dtype)
