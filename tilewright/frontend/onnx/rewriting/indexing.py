"""Rewritings of operators with indices."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting
from tilewright.frontend.onnx.rewriting.shapes import as_shape

__all__ = ["gather_range", "one_hot"]


@rewriting("OneHot")
def one_hot(graph: Graph, node: onnx.NodeProto) -> bool:
    """OneHot(indices, depth, [off, on]) --> Where(indices == [0, 1, ..., depth - 1], on, off).

    TVM's result has a default type instead of the type of the values, and its converter takes no computed values.
    """
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    if before is None or after is None or not graph.elem_type(node.input[2]):
        return False
    axis = read_attributes(node).get("axis", -1)
    assert isinstance(axis, int)
    axis %= len(after)
    depth, indices = after[axis], node.input[0]
    if graph.elem_type(indices) != TensorProto.INT64:
        indices = graph.op("Cast", indices, to=TensorProto.INT64)
    wrapped = graph.op("Add", indices, np.asarray(depth, dtype=np.int64))
    indices = graph.op("Where", graph.op("Less", indices, np.asarray(0, dtype=np.int64)), wrapped, indices)
    column = graph.op("Reshape", indices, as_shape((*before[:axis], 1, *before[axis:])))
    places = np.arange(depth, dtype=np.int64).reshape([-1 if place == axis else 1 for place in range(len(after))])
    chosen = graph.op("Equal", column, places)
    off, on = _values(graph, node.input[2])
    graph.op("Where", chosen, on, off, out=node.output[0])
    return True


def _values(graph: Graph, name: str) -> tuple[str, str]:
    """The two elements of a tensor, as scalars."""
    found = graph.array(name)
    if found is not None:
        off, on = found.reshape(-1)
        return graph.constant(np.asarray(off)), graph.constant(np.asarray(on))
    return (
        graph.op("Gather", name, np.asarray(0, dtype=np.int64), axis=0),
        graph.op("Gather", name, np.asarray(1, dtype=np.int64), axis=0),
    )


@rewriting("Gather")
def gather_range(graph: Graph, node: onnx.NodeProto) -> bool:
    """Gather(x, i) --> Squeeze(Slice(x, i, i + 1)), and Gather(x, [i, i + 1, ...]) --> Slice(x), for constant indices.

    A slice may be a view, but TVM's Gather tests in each run whether indices are negative.
    """
    indices, shape = graph.array(node.input[1]), graph.shape(node.input[0])
    result = graph.shape(node.output[0])
    if indices is None or shape is None or result is None or indices.ndim > 1 or graph.is_constant(node.input[0]):
        return False
    axis = read_attributes(node).get("axis", 0)
    assert isinstance(axis, int)
    size = shape[axis]
    flat = indices.astype(np.int64).reshape(-1)
    flat = np.where(flat < 0, flat + size, flat)
    if not flat.size or flat[0] < 0 or flat[-1] >= size or np.any(np.diff(flat) != 1):
        return False
    ends = [np.asarray([bound], dtype=np.int64) for bound in (flat[0], flat[-1] + 1, axis % len(shape))]
    if indices.ndim:
        graph.op("Slice", node.input[0], *ends, out=node.output[0])
    else:
        graph.op("Squeeze", graph.op("Slice", node.input[0], *ends), ends[2], out=node.output[0])
    return True
