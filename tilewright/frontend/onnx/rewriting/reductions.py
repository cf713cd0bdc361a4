"""Rewritings of reductions, and of cumulative sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["find_axes"]

_KINDS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)


def find_axes(before: Sequence[int], after: Sequence[int], keepdims: bool) -> list[int] | None:
    """The axes that a reduction from one shape to another reduces; None if that is ambiguous.

    With ``keepdims``, an axis of one element counts as not reduced, since its reduction changes no sum or maximum.
    """
    if keepdims:
        if len(before) != len(after):
            return None
        return [axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if old != 1 and new == 1]
    if not after:
        return list(range(len(before)))
    if len(before) == len(after):
        return []
    ways = _find_kept(list(before), list(after), 0)
    if len(ways) != 1:
        return None
    return [axis for axis in range(len(before)) if axis not in ways[0]]


def _find_kept(before: list[int], after: list[int], start: int) -> list[tuple[int, ...]]:
    """All ways to choose the axes of ``after`` from those of ``before``, in order."""
    if not after:
        return [()]
    found: list[tuple[int, ...]] = []
    for axis in range(start, len(before) - len(after) + 1):
        if before[axis] == after[0]:
            found += [(axis, *rest) for rest in _find_kept(before, after[1:], axis + 1)]
    return found


@rewriting(*_KINDS)
def name_axes(graph: Graph, node: onnx.NodeProto) -> bool:
    """Reduce(x, axes) --> Reduce(x, [1]), if the shapes of ``x`` and of the result imply the axes.

    Computed axes cannot be imported.
    """
    if len(node.input) < 2 or not node.input[1] or graph.array(node.input[1]) is not None:
        return False
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    count = graph.shape(node.input[1])
    if before is None or after is None or count is None:
        return False
    attributes = read_attributes(node)
    if count == (0,):  # without axes, the attribute noop_with_empty_axes decides
        axes: list[int] | None = [] if attributes.get("noop_with_empty_axes", 0) else list(range(len(before)))
    else:
        axes = find_axes(before, after, bool(attributes.get("keepdims", 1)))
    if axes is None:
        return False
    new = copy_node(node)
    if axes:
        new.input[1] = graph.constant(np.asarray(axes, dtype=np.int64))
        graph.add(new)
    else:
        _reduce_nothing(graph, node)
    return True


@rewriting(*_KINDS)
def reduce_nothing(graph: Graph, node: onnx.NodeProto) -> bool:
    """Reduce(x, noop_with_empty_axes=1) --> an element-wise operator, if there are no axes.

    For example, ReduceSumSquare(x) --> x * x. TVM returns ``x`` for all reductions.
    """
    axes = graph.ints(node.input[1]) if len(node.input) > 1 and node.input[1] else []
    if axes is None or axes or not read_attributes(node).get("noop_with_empty_axes", 0):
        return False
    _reduce_nothing(graph, node)
    return True


def _reduce_nothing(graph: Graph, node: onnx.NodeProto) -> None:
    """Write the reduction over an axis of one element: an element-wise operator."""
    x, out = node.input[0], node.output[0]
    if node.op_type in ("ReduceL1", "ReduceL2"):
        graph.op("Abs", x, out=out)
    elif node.op_type == "ReduceSumSquare":
        graph.op("Mul", x, x, out=out)
    elif node.op_type == "ReduceLogSum":
        graph.op("Log", x, out=out)
    else:
        graph.op("Identity", x, out=out)


#: The result of a reduction of no elements, by operator.
_EMPTY = {
    "ReduceL1": 0.0,
    "ReduceL2": 0.0,
    "ReduceLogSum": -np.inf,
    "ReduceLogSumExp": -np.inf,
    "ReduceMax": -np.inf,
    "ReduceMean": np.nan,
    "ReduceMin": np.inf,
    "ReduceProd": 1.0,
    "ReduceSum": 0.0,
    "ReduceSumSquare": 0.0,
}


@rewriting(*_KINDS)
def reduce_no_elements(graph: Graph, node: onnx.NodeProto) -> bool:
    """Reduce(x) --> Expand(constant), if ``x`` has no elements."""
    before, after = graph.fixed(node.input[0]), graph.fixed(node.output[0])
    if before is None or after is None or before.size or not after.size:
        return False
    value, dtype = _EMPTY[node.op_type], np.dtype(after.dtype)
    if dtype.kind in "iu" and not np.isfinite(value):
        limits = np.iinfo(dtype)
        value = limits.max if value > 0 else limits.min
    elif dtype.kind == "b":
        value = value > 0
    graph.op("Expand", np.full((), value, dtype=dtype), np.asarray(after.shape, dtype=np.int64), out=node.output[0])
    return True


@rewriting("ReduceLogSumExp")
def log_sum_exp(graph: Graph, node: onnx.NodeProto) -> bool:
    """ReduceLogSumExp(x) --> Log(ReduceSum(Exp(x - m))) + m, where m is the finite maximum, or 0.

    TVM subtracts the maximum also if it is infinite, which gives NaN.
    """
    x, result = node.input[0], graph.fixed(node.output[0])
    if graph.elem_type(x) not in (TensorProto.FLOAT, TensorProto.DOUBLE) or result is None or not result.size:
        return False
    axes = node.input[1] if len(node.input) > 1 and node.input[1] else None
    if axes is not None and not graph.ints(axes):
        return False
    top = graph.op("ReduceMax", x, axes, keepdims=1)
    infinite = graph.op("Equal", graph.op("Abs", top), graph.like(x, np.inf))
    offset = graph.op("Where", infinite, graph.like(x, 0), top)
    total = graph.op("ReduceSum", graph.op("Exp", graph.op("Sub", x, offset)), axes, keepdims=1)
    kept = graph.op("Add", graph.op("Log", total), offset)
    graph.op("Reshape", kept, np.asarray(result.shape, dtype=np.int64), out=node.output[0])
    return True


@rewriting("ReduceMax", "ReduceMin")
def reduce_truths(graph: Graph, node: onnx.NodeProto) -> bool:
    """ReduceMax(x) --> Cast(ReduceMax(Cast(x, to=uint8)), to=bool), if ``x`` is of bool, which TVM cannot reduce."""
    if graph.elem_type(node.input[0]) != TensorProto.BOOL:
        return False
    new = copy_node(node)
    new.input[0] = graph.op("Cast", node.input[0], to=TensorProto.UINT8)
    new.output[0] = graph.new_name("number")
    graph.add(new)
    graph.op("Cast", new.output[0], out=node.output[0], to=TensorProto.BOOL)
    return True


@rewriting("CumSum", "CumProd")
def name_axis(graph: Graph, node: onnx.NodeProto) -> bool:
    """CumSum(x, axis) --> CumSum(x, 0), if ``x`` has one axis. A computed axis cannot be imported."""
    if graph.array(node.input[1]) is not None or graph.rank(node.input[0]) != 1:
        return False
    new = copy_node(node)
    new.input[1] = graph.constant(np.asarray(0, dtype=np.int64))
    graph.add(new)
    return True


@rewriting("ReduceMean")
def mean_of_integers(graph: Graph, node: onnx.NodeProto) -> bool:
    """ReduceMean(x) --> ReduceSum(x) / count, if ``x`` has integers. TVM's result has another element type."""
    before, after = graph.fixed(node.input[0]), graph.fixed(node.output[0])
    if before is None or after is None or not after.size or np.dtype(before.dtype).kind not in "iu":
        return False
    if len(node.input) > 1 and graph.array(node.input[1]) is None:
        return False
    new = copy_node(node)
    new.op_type, new.output[0] = "ReduceSum", graph.new_name("sum")
    graph.add(new)
    graph.op("Div", new.output[0], graph.like(node.input[0], before.size // after.size), out=node.output[0])
    return True
