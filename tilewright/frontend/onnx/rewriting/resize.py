"""Rewritings of Resize."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["split_resize"]


@rewriting("Resize")
def split_resize(graph: Graph, node: onnx.NodeProto) -> bool:
    """Resize(scales) --> Gather or MatMul for each axis, if the scales are not the ratios of the sizes.

    TVM computes coordinates from the sizes, which are rounded: scaled by 2.5, 7 pixels become 17 instead of 17.5.
    """
    attributes, shape = read_attributes(node), graph.shape(node.input[0])
    scales = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if shape is None or scales is None or scales.size != len(shape) or "axes" in attributes:
        return False
    factors = [float(f) for f in scales.astype(np.float64)]
    sizes = [math.floor(size * factor) for size, factor in zip(shape, factors, strict=True)]
    if all(size == before * factor for size, before, factor in zip(sizes, shape, factors, strict=True)):
        return False
    mode = attributes.get("mode", "nearest")
    if mode not in ("nearest", "linear") or attributes.get("antialias", 0):
        return False
    transform = str(attributes.get("coordinate_transformation_mode", "half_pixel"))
    rounding = str(attributes.get("nearest_mode", "round_prefer_floor"))
    if transform not in ("half_pixel", "asymmetric", "pytorch_half_pixel"):
        return False
    changed = [axis for axis in range(len(shape)) if factors[axis] != 1.0]
    name = node.input[0]
    for axis in changed:
        places = _places(sizes[axis], factors[axis], transform)
        out = node.output[0] if axis == changed[-1] else ""
        if mode == "nearest":
            indices = np.clip(_ROUNDINGS[rounding](places), 0, shape[axis] - 1).astype(np.int64)
            name = graph.op("Gather", name, indices, out=out, axis=axis)
        else:
            name = _interpolate(graph, name, out, axis, len(shape), _weights(places, shape[axis]))
    return True


def _places(size: int, factor: float, transform: str) -> NDArray[np.float64]:
    """The coordinate of each output element in the input, of shape ``(size,)``.

    It is computed in float32, as in ONNX Runtime: rounding decides between two neighbours that are equally near, for
    example at 8.5 / 1.7 - 0.5 = 4.5.
    """
    index, half = np.arange(size, dtype=np.float32), np.float32(0.5)
    if transform == "asymmetric":
        return (index / np.float32(factor)).astype(np.float64)
    if transform == "pytorch_half_pixel" and size == 1:
        return np.zeros(1)
    return ((index + half) / np.float32(factor) - half).astype(np.float64)


def _weights(places: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """The matrix of a linear interpolation, of shape ``(outputs, size)``."""
    bounded = np.clip(places, 0, size - 1)
    low = np.floor(bounded).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((len(places), size))
    rows = np.arange(len(places))
    np.add.at(matrix, (rows, low), 1 - (bounded - low))
    np.add.at(matrix, (rows, high), bounded - low)
    return matrix.astype(np.float32)


def _interpolate(graph: Graph, name: str, out: str, axis: int, rank: int, matrix: NDArray[np.float32]) -> str:
    """Multiply one axis of a tensor by a matrix of shape ``(outputs, inputs)``. Returns the name of the result."""
    if axis == rank - 2:  # the matrix is the left operand
        return graph.op("MatMul", matrix, name, out=out)
    columns = np.ascontiguousarray(matrix.T)
    if axis == rank - 1:
        return graph.op("MatMul", name, columns, out=out)
    order = [*(a for a in range(rank) if a != axis), axis]
    back = [order.index(a) for a in range(rank)]
    last = graph.op("Transpose", name, perm=order)
    return graph.op("Transpose", graph.op("MatMul", last, columns), out=out, perm=back)


#: How a coordinate becomes an index, by ``nearest_mode``.
_ROUNDINGS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
