"""Rewritings of operators that move elements, or compute tensors from shapes.

If a parameter is computed, but the shape of the result is known, the parameter is derived from the shape.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["as_shape"]


def as_shape(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """A shape as an array of int64, for an operand."""
    return np.asarray(shape, dtype=np.int64)


@rewriting("Reshape", "Squeeze", "Unsqueeze")
def reshape(graph: Graph, node: onnx.NodeProto) -> bool:
    """Reshape(x, shape) --> Reshape(x, [2, 3]), the shape of the result, if ``shape`` is computed or has zeros.

    Squeeze and Unsqueeze become the same, if their axes are computed.
    """
    values = graph.ints(node.input[1]) if len(node.input) > 1 and node.input[1] else []
    after = graph.shape(node.output[0])
    if after is None or graph.fixed(node.input[0]) is None:
        return False
    plain = values is not None and not (node.op_type == "Reshape" and (0 in values or read_attributes(node)))
    if plain or 0 in after:
        return False
    graph.op("Reshape", node.input[0], as_shape(after), out=node.output[0])
    return True


@rewriting("Expand")
def expand(graph: Graph, node: onnx.NodeProto) -> bool:
    """Expand(x, shape) --> Expand(x, [2, 3]), the shape of the result, if ``shape`` is computed."""
    after = graph.shape(node.output[0])
    if after is None or graph.array(node.input[1]) is not None:
        return False
    graph.op("Expand", node.input[0], as_shape(after), out=node.output[0])
    return True


@rewriting("Tile")
def tile(graph: Graph, node: onnx.NodeProto) -> bool:
    """Tile(x, [1, 2]) --> Reshape(Expand(Reshape(x))), with an axis of repeats before each repeated axis.

    The repeats are derived from the shapes. TVM 0.27 simplifies the indices of its own Tile wrongly if two axes are
    repeated.
    """
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    if before is None or after is None or len(before) != len(after) or 0 in before or 0 in after:
        return False
    apart: list[int] = []
    wide: list[int] = []
    for old, new in zip(before, after, strict=True):
        if new != old:
            apart.append(1)
            wide.append(new // old)
        apart.append(old)
        wide.append(old)
    name = graph.op("Expand", graph.op("Reshape", node.input[0], as_shape(tuple(apart))), as_shape(tuple(wide)))
    graph.op("Reshape", name, as_shape(after), out=node.output[0])
    return True


@rewriting("ConstantOfShape")
def constant_of_shape(graph: Graph, node: onnx.NodeProto) -> bool:
    """ConstantOfShape(shape) --> Expand(constant, [2, 3]), the shape of the result, if ``shape`` is computed."""
    found = graph.fixed(node.output[0])
    if found is None or graph.array(node.input[0]) is not None:
        return False
    value = read_attributes(node).get("value")
    if isinstance(value, onnx.TensorProto):
        number = onnx.numpy_helper.to_array(value).reshape(())
    else:
        number = np.zeros((), dtype=np.float32)
    graph.op("Expand", number, as_shape(found.shape), out=node.output[0])
    return True


@rewriting("Split")
def split(graph: Graph, node: onnx.NodeProto) -> bool:
    """Split(x, sizes) --> Split(x, [2, 1]), as the shapes of the results say, if ``sizes`` is computed or absent."""
    if len(node.input) > 1 and node.input[1] and graph.array(node.input[1]) is not None:
        return False
    axis = read_attributes(node).get("axis", 0)
    shapes = [graph.shape(name) if name else None for name in node.output]
    if any(shape is None for shape in shapes):
        return False
    assert isinstance(axis, int)
    new = copy_node(node, ("num_outputs",))
    del new.input[1:]
    new.input.append(graph.constant(as_shape(tuple(shape[axis] for shape in shapes if shape is not None))))
    graph.add(new)
    return True


@rewriting("TopK")
def top_k(graph: Graph, node: onnx.NodeProto) -> bool:
    """TopK(x, k) --> TopK(x, [3]), as the shape of the result says, if ``k`` is computed."""
    after = graph.shape(node.output[0]) if node.output[0] else graph.shape(node.output[1])
    axis = read_attributes(node).get("axis", -1)
    if after is None or graph.array(node.input[1]) is not None:
        return False
    assert isinstance(axis, int)
    new = copy_node(node)
    new.input[1] = graph.constant(as_shape((after[axis],)))
    graph.add(new)
    return True


@rewriting("EyeLike")
def eye_like(graph: Graph, node: onnx.NodeProto) -> bool:
    """EyeLike(x) --> a constant. TVM's converter supports only the type of ``x``."""
    found, attributes = graph.fixed(node.output[0]), read_attributes(node)
    offset = attributes.get("k", 0)
    if found is None or len(found.shape) != 2:
        return False
    assert isinstance(offset, int)
    eye = np.eye(*found.shape, k=offset).astype(found.dtype)
    graph.op("Identity", eye, out=node.output[0])
    return True


@rewriting("Range")
def count(graph: Graph, node: onnx.NodeProto) -> bool:
    """Range(start, limit, delta) --> start + delta * [0, 1, 2], if the number of elements is known."""
    found = graph.fixed(node.output[0])
    if found is None or not found.size:
        return False
    start, _, delta = node.input
    steps = graph.op("Mul", np.arange(found.size).astype(found.dtype), graph.op("Reshape", delta, as_shape((1,))))
    graph.op("Add", steps, graph.op("Reshape", start, as_shape((1,))), out=node.output[0])
    return True


@rewriting("Compress")
def compress(graph: Graph, node: onnx.NodeProto) -> bool:
    """Compress(x, [0, 1, 1]) --> Gather(x, [1, 2])."""
    condition = graph.array(node.input[1])
    if condition is None:
        return False
    axis = read_attributes(node).get("axis")
    places = np.flatnonzero(condition).astype(np.int64)
    if axis is None:
        flat = graph.op("Reshape", node.input[0], as_shape((-1,)))
        graph.op("Gather", flat, places, out=node.output[0], axis=0)
    else:
        assert isinstance(axis, int)
        graph.op("Gather", node.input[0], places, out=node.output[0], axis=axis)
    return True


@rewriting("Trilu")
def trilu(graph: Graph, node: onnx.NodeProto) -> bool:
    """Trilu(x, k) --> Where(constant, x, 0), if ``k`` is a constant."""
    found = graph.fixed(node.input[0])
    offset = graph.ints(node.input[1]) if len(node.input) > 1 and node.input[1] else [0]
    if found is None or offset is None or len(found.shape) < 2:
        return False
    rows, columns = np.arange(found.shape[-2]).reshape(-1, 1), np.arange(found.shape[-1])
    upper = bool(read_attributes(node).get("upper", 1))
    kept = columns - rows >= offset[0] if upper else columns - rows <= offset[0]
    if found.elem_type == onnx.TensorProto.BOOL:
        graph.op("And", node.input[0], kept, out=node.output[0])
    else:
        zero = np.zeros((), dtype=helper.tensor_dtype_to_np_dtype(found.elem_type))
        graph.op("Where", kept, node.input[0], zero, out=node.output[0])
    return True


@rewriting("Hardmax")
def hardmax(graph: Graph, node: onnx.NodeProto) -> bool:
    """Hardmax(x) --> OneHot(ArgMax(x), depth, [0, 1])."""
    found = graph.fixed(node.input[0])
    axis = read_attributes(node).get("axis", -1)
    if found is None or not found.size:
        return False
    assert isinstance(axis, int)
    place = graph.op("ArgMax", node.input[0], axis=axis, keepdims=0)
    depth, values = np.asarray(found.shape[axis], dtype=np.int64), graph.like(node.input[0], [0, 1])
    graph.op("OneHot", place, depth, values, out=node.output[0], axis=axis % len(found.shape))
    return True


@rewriting("Dropout")
def dropout(graph: Graph, node: onnx.NodeProto) -> bool:
    """(y, mask) = Dropout(x) --> Identity(x), and a mask that is true everywhere, since inference drops nothing."""
    trains = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    found = graph.fixed(node.input[0])
    if trains is None or trains.any():
        return False
    mask = node.output[1] if len(node.output) > 1 else ""
    if mask:
        if found is None:
            return False
        graph.op("Expand", np.asarray(True), as_shape(found.shape), out=mask)
    graph.op("Identity", node.input[0], out=node.output[0])
    return True


@rewriting("Shape")
def shape_of(graph: Graph, node: onnx.NodeProto) -> bool:
    """Shape(x) --> a constant, if the shape of ``x`` is known."""
    shape = graph.shape(node.input[0])
    if shape is None:
        return False
    attributes = read_attributes(node)
    start, end = attributes.get("start", 0), attributes.get("end", len(shape))
    assert isinstance(start, int)
    assert isinstance(end, int)
    graph.op("Identity", as_shape(shape[start:end]), out=node.output[0])
    return True


#: The terms of windows: factors of cos(0), cos(x), cos(2 x), ...
_WINDOWS = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


@rewriting(*_WINDOWS)
def window(graph: Graph, node: onnx.NodeProto) -> bool:
    """HannWindow(size) --> a constant, if the number of its elements is known. TVM has no converter for it."""
    found = graph.fixed(node.output[0])
    if found is None:
        return False
    count = found.size if read_attributes(node).get("periodic", 1) else max(1, found.size - 1)
    angles = np.arange(found.size) * (2 * np.pi / count)
    values = sum(factor * np.cos(number * angles) for number, factor in enumerate(_WINDOWS[node.op_type]))
    graph.op("Identity", np.asarray(values).astype(found.dtype), out=node.output[0])
    return True


@rewriting("Concat")
def concat(graph: Graph, node: onnx.NodeProto) -> bool:
    """Concat(a, b) --> Identity(a), if ``b`` has no elements."""
    shapes = [graph.shape(name) for name in node.input]
    full = [name for name, shape in zip(node.input, shapes, strict=True) if shape is None or 0 not in shape]
    if len(full) == len(shapes) or not full:
        return False
    if len(full) == 1:
        graph.op("Identity", full[0], out=node.output[0])
        return True
    new = copy_node(node)
    new.input[:] = full
    graph.add(new)
    return True


@rewriting("SpaceToDepth")
def space_to_depth(graph: Graph, node: onnx.NodeProto) -> bool:
    """SpaceToDepth(x) --> Reshape(Transpose(Reshape(x))). TVM's converter ignores the mode."""
    shape, attributes = graph.shape(node.input[0]), read_attributes(node)
    size = attributes["blocksize"]
    assert isinstance(size, int)
    if shape is None or len(shape) != 4:
        return False
    batch, channels, height, width = shape[0], shape[1], shape[2] // size, shape[3] // size
    apart = graph.op("Reshape", node.input[0], as_shape((batch, channels, height, size, width, size)))
    order = [0, 1, 3, 5, 2, 4] if attributes.get("mode") == "CRD" else [0, 3, 5, 1, 2, 4]
    moved = graph.op("Transpose", apart, perm=order)
    graph.op("Reshape", moved, as_shape((batch, channels * size * size, height, width)), out=node.output[0])
    return True
