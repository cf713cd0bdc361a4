"""Rewriting of AffineGrid."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["write_grid"]


@rewriting("AffineGrid")
def write_grid(graph: Graph, node: onnx.NodeProto) -> bool:
    """AffineGrid(theta, size) --> MatMul(coordinates, Transpose(theta)), with constant coordinates."""
    shape = graph.shape(node.output[0])
    if shape is None:
        given = graph.ints(node.input[1])
        if given is None:
            return False
        shape = (given[0], *given[2:], len(given) - 2)
    image, rank = shape[1:-1], shape[-1]
    aligned = bool(read_attributes(node).get("align_corners", 0))
    axes = [_coordinates(size, aligned) for size in image]
    planes = np.meshgrid(*axes, indexing="ij")
    # Coordinates are in reverse order: the first one belongs to the last axis.
    points = np.stack([*reversed(planes), np.ones(image)], axis=-1).reshape(-1, rank + 1)
    turned = graph.op("Transpose", node.input[0], perm=[0, 2, 1])
    product = graph.op("MatMul", graph.like(node.input[0], points), turned)
    graph.op("Reshape", product, np.asarray(shape, np.int64), out=node.output[0])
    return True


def _coordinates(size: int, aligned: bool) -> NDArray[np.float64]:
    """The coordinates of an axis's elements in [-1, 1]: from end to end if aligned, else centres of equal cells."""
    if aligned:
        return np.linspace(-1.0, 1.0, size) if size > 1 else np.full(1, -1.0)
    return (2 * np.arange(size) + 1) / size - 1
