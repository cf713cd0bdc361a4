"""Small networks that between them use every design space, layout and rewrite, for any length of vectors.

A new space, layout or rewrite joins by one line of ``CASES``: a function that writes a model whose tasks need it, and
the templates that must serve them, however many lanes a vector has.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from tests.executable.test_plan import expand
from tests.graph.test_expansions import inverted_residual
from tests.graph.test_mlp import block
from tests.graph.test_tokens import attention
from tests.models import design_space, normal, read, save
from tests.targets import LANES, lane_target
from tilewright.frontend.network import Network
from tilewright.graph.convolution import Algorithm
from tilewright.graph.tasks import Extraction, extract
from tilewright.space.space import DesignSpace
from tilewright.task import Task

__all__ = ["CASES", "Case", "describe", "extraction_of", "space_of"]

Shape = tuple[int, ...]


def chain(path: Path, shape: Shape, output: Shape, *steps: tuple[Any, ...]) -> Path:
    """Operators one after another, each ``(operator, attributes, *weights)``."""
    nodes: list[NodeProto] = []
    weights: dict[str, Any] = {}
    for i, (operator, attributes, *arrays) in enumerate(steps):
        names = [f"w{i}_{j}" for j in range(len(arrays))]
        weights |= dict(zip(names, arrays, strict=True))
        result = f"t{i}" if i < len(steps) - 1 else "y"
        nodes.append(helper.make_node(operator, [f"t{i - 1}" if i else "x", *names], [result], **attributes))
    return save(path, nodes, {"x": shape}, output, **weights)


def conv(out: int, channels: int, kernel: int, **attributes: Any) -> tuple[Any, ...]:
    pads = {"pads": [kernel // 2] * 4}
    return "Conv", pads | attributes, normal(out, channels, kernel, kernel), normal(out, seed=1)


def pool(operator: str, **attributes: Any) -> tuple[Any, ...]:
    return operator, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]} | attributes


def convolution(path: Path, channels: int, out: int, kernel: int = 3, side: int = 9, **attributes: Any) -> Path:
    rows = (side - 1) // attributes.get("strides", [1])[0] + 1
    step = conv(out, channels // attributes.get("group", 1), kernel, **attributes)
    return chain(path, (1, channels, side, side), (1, out, rows, rows), step, ("Relu", {}))


def excite(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["m"]),
        helper.make_node("Conv", ["m", "w1", "b1"], ["few"]),
        helper.make_node("Relu", ["few"], ["some"]),
        helper.make_node("Conv", ["some", "w2", "b2"], ["all"]),
        helper.make_node("Sigmoid", ["all"], ["gates"]),
        helper.make_node("Mul", ["c", "gates"], ["y"]),
    ]
    weights = {"w1": normal(6, 20, 1, 1) / np.float32(4), "b1": normal(6), "w2": normal(20, 6, 1, 1), "b2": normal(20)}
    return save(path, nodes, {"x": (1, 8, 5, 9)}, (1, 20, 5, 9), w=normal(20, 8, 1, 1), **weights)


def residual(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["r"]),
        helper.make_node("Conv", ["r", "w2", "b2"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    weights = {"w1": normal(20, 8, 1, 1), "w2": normal(20, 20, 3, 3, seed=1), "b2": normal(20, seed=2)}
    return save(path, nodes, {"x": [1, 8, 7, 7]}, [1, 20, 7, 7], **weights)


def shuffle(path: Path, groups: int, each: int) -> Path:
    """Grouped convolutions with their channels shuffled in between."""
    c = groups * each
    return chain(
        path,
        (1, c, 6, 6),
        (1, c, 6, 6),
        conv(c, each, 1, group=groups),
        ("Reshape", {}, np.asarray([1, groups, each, 6, 6])),
        ("Transpose", {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", {}, np.asarray([1, c, 6, 6])),
        conv(c, 1, 3, group=c),
        conv(c, each, 1, group=groups),
    )


def pooling(path: Path, channels: int) -> Path:
    steps = [conv(channels, 8, 1), pool("MaxPool"), pool("AveragePool", strides=[2, 2]), ("GlobalAveragePool", {})]
    return chain(path, (1, 8, 9, 9), (1, channels, 1, 1), *steps)


def local_response(path: Path) -> Path:
    return chain(path, (1, 12, 6, 12), (1, 12, 6, 12), ("LRN", {"size": 5, "alpha": 0.1, "beta": 0.75}))


def dense(path: Path, outputs: int) -> Path:
    steps: list[tuple[Any, ...]] = [("MatMul", {}, normal(16, outputs)), ("Add", {}, normal(outputs)), ("Sigmoid", {})]
    return chain(path, (6, 16), (6, outputs), *steps)


def rows(path: Path, columns: tuple[int, ...]) -> Path:
    """Layer norms and softmax over rows of these lengths."""
    nodes = [helper.make_node("Gemm", ["x", "w0"], ["t0"])]
    weights = {"w0": normal(8, columns[0])}
    for i, n in enumerate(columns):
        weights |= {f"g{i}": normal(n), f"s{i}": normal(n, seed=1), f"w{i + 1}": normal(n, [*columns, 8][i + 1])}
        nodes += [
            helper.make_node("LayerNormalization", [f"t{i}", f"g{i}", f"s{i}"], [f"n{i}"], axis=-1),
            helper.make_node("Softmax", [f"n{i}"], [f"p{i}"], axis=-1),
            helper.make_node("Gemm", [f"p{i}", f"w{i + 1}"], [f"t{i + 1}" if i < len(columns) - 1 else "y"]),
        ]
    return save(path, nodes, {"x": [5, 8]}, [5, 8], **weights)


def recurrence(path: Path, hidden: int) -> Path:
    """A bidirectional LSTM of a batch, the directions of each step side by side."""
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["l"], hidden_size=hidden, direction="bidirectional")
    nodes = [
        node,
        helper.make_node("Transpose", ["l"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "shape"], ["y"]),
    ]
    weights = {
        "w": normal(2, 4 * hidden, 6) * 0.3,
        "r": normal(2, 4 * hidden, hidden) * 0.3,
        "b": normal(2, 8 * hidden),
    }
    shape = np.asarray([5, 3, 2 * hidden])
    return save(path, nodes, {"x": [5, 3, 6]}, [5, 3, 2 * hidden], shape=shape, **weights)


def total(path: Path) -> Path:
    """A sum that has no rows and no windows, which no template of ours serves."""
    return chain(path, (6, 20, 8), (6, 8), ("ReduceMean", {"axes": [1], "keepdims": 0}))


@dataclass(frozen=True)
class Case:
    """A network that a template, a layout or a rewrite is needed for.

    Attributes:
        write: writes the model to a path.
        templates: of the spaces that serve its tasks, whatever the lanes.
        moves: whether something besides may move elements, such as into blocks at the start and out of them at the end.
        algorithm: of its convolutions, where they can be computed so.
        joined: whether one function computes each attention, each 1x1 convolution with a depthwise one after it, and
            each pair of dense layers.
    """

    write: Callable[[Path], Path]
    templates: tuple[str, ...]
    moves: bool = True
    algorithm: Algorithm = "direct"
    joined: bool = False


_PIXELS = partial(Case, templates=("contraction",))
_DEPTHWISE = partial(Case, templates=("depthwise",))
_POOLED = partial(Case, templates=("contraction", "window"))
_TOKENS = partial(Case, templates=("contraction", "rows"), moves=False)
_STAGED = partial(Case, templates=("contraction", "winograd_transform"))
_FUSED = partial(Case, templates=("winograd",))
_DENSE = partial(Case, templates=("contraction",), moves=False)
_STEPS = partial(Case, templates=("contraction", "recurrent"), moves=False)
CASES: dict[str, Case] = {
    "convolution": _PIXELS(partial(convolution, channels=16, out=48)),
    "convolution of an image": _PIXELS(partial(convolution, channels=3, out=5)),
    "convolution of odd channels": _PIXELS(partial(convolution, channels=20, out=34)),
    "1x1": _PIXELS(partial(convolution, channels=24, out=40, kernel=1)),
    "1x1 with a stride": _PIXELS(partial(convolution, channels=8, out=16, kernel=1, strides=[2, 2])),
    "5x5 with a stride": _PIXELS(partial(convolution, channels=8, out=12, kernel=5, strides=[2, 2])),
    "groups of blocks": _PIXELS(partial(convolution, channels=64, out=32, group=2)),
    "groups, channels last": _PIXELS(partial(convolution, channels=18, out=15, group=3)),
    "depthwise": _DEPTHWISE(partial(convolution, channels=24, out=24, group=24)),
    "depthwise, few channels": _DEPTHWISE(partial(convolution, channels=3, out=3, group=3)),
    "channel shuffle": _PIXELS(partial(shuffle, groups=3, each=8)),
    "channel shuffle, few channels": _PIXELS(partial(shuffle, groups=2, each=3)),
    "concatenation": _PIXELS(expand),
    "two concatenations": _PIXELS(partial(expand, outer=True)),
    "residual": _PIXELS(residual),
    "pooling": _POOLED(partial(pooling, channels=16)),
    "pooling of odd channels": _POOLED(partial(pooling, channels=12)),
    "local response": Case(local_response, ("window",)),
    "dense": _DENSE(partial(dense, outputs=48)),
    "dense of 2": _DENSE(partial(dense, outputs=2)),
    "dense of 17": _DENSE(partial(dense, outputs=17)),
    "rows": _TOKENS(partial(rows, columns=(64,))),
    "short rows": _TOKENS(partial(rows, columns=(2, 5, 12))),
    "attention": _TOKENS(partial(attention, batch=1, tokens=24, heads=2, depth=16, masked=True, one=True)),
    "attention in one function": Case(
        partial(attention, batch=2, tokens=19, heads=2, depth=16, masked=True, one=True),
        ("contraction", "rows", "attention"),
        moves=False,
        joined=True,
    ),
    "inverted residual in one function": Case(
        partial(inverted_residual, channels=12, wide=36), ("contraction", "expansion"), joined=True
    ),
    "two dense layers in one function": Case(
        partial(block, tokens=19, width=48, hidden=96), ("rows", "mlp"), moves=False, joined=True
    ),
    "narrow heads": _TOKENS(partial(attention, batch=2, tokens=6, heads=3, depth=4, masked=False, one=True)),
    "recurrence": _STEPS(partial(recurrence, hidden=20)),
    "winograd2": _STAGED(partial(convolution, channels=16, out=24), algorithm="winograd2"),
    "winograd4": _STAGED(partial(convolution, channels=12, out=16), algorithm="winograd4"),
    "fused_winograd2": _FUSED(partial(convolution, channels=16, out=16), algorithm="fused_winograd2"),
    "fused_winograd4": _FUSED(partial(convolution, channels=24, out=8), algorithm="fused_winograd4"),
    "squeeze and excitation": Case(excite, ("contraction", "excitation")),
    "auto": Case(total, ("auto",)),
}


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@cache
def _network(name: str) -> Network:
    path = CASES[name].write(Path(_folder().name, f"{len(list(Path(_folder().name).iterdir()))}.onnx"))
    return read(path)


@cache
def extraction_of(name: str, lanes: int) -> Extraction:
    """The tasks of a case on the machine of so many lanes."""
    network, target, algorithm = _network(name), lane_target(lanes), CASES[name].algorithm
    first = extract(network, target)
    if CASES[name].joined:
        return first.with_algorithms({}, {*dict(first.attentions), *dict(first.joints)})
    if algorithm == "direct":
        return first
    return extract(network, target, {conv: algorithm for conv, _ in first.rewritten.convolutions})


_spaces: dict[tuple[str, int], DesignSpace] = {}


def space_of(task: Task, lanes: int) -> DesignSpace:
    """The space of a task, made once: many cases have the same transpositions."""
    if (task.key, lanes) not in _spaces:
        _spaces[task.key, lanes] = design_space(task, lane_target(lanes))
    return _spaces[task.key, lanes]


def describe() -> str:
    """The template, the knobs and the default of every task of every case, as JSON."""
    return json.dumps(
        {
            f"{name}, {lanes} lanes, {use.task.name}": [
                space.template,
                [[knob.name, list(knob.choices)] for knob in space.knobs],
                space.default().tolist(),
            ]
            for name in CASES
            for lanes in LANES
            for use in extraction_of(name, lanes).uses
            for space in [space_of(use.task, lanes)]
        }
    )
