"""Rewritings of signal processing: Fourier transforms as products with constant matrices, and windows."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["fourier_matrix"]

#: The most elements of a matrix: a choice. Longer transforms run in ONNX Runtime, which has a fast algorithm.
_MOST = 1 << 24


def fourier_matrix(length: int, count: int, parts: int, inverse: bool) -> NDArray[np.float64]:
    """The matrix of a discrete Fourier transform of interleaved real and imaginary parts.

    Args:
        length: the length of the transform.
        count: the number of frequencies that are computed, from 0 on.
        parts: 1 if the signal is real, 2 if it is complex.
        inverse: whether it is the inverse transform, which divides by the length.

    Returns:
        an array of shape ``(length * parts, count * 2)``.
    """
    angle = 2 * np.pi / length * ((np.arange(length)[:, None] * np.arange(count)[None, :]) % length)
    cos, sin = np.cos(angle), np.sin(angle) * (1 if inverse else -1)
    matrix = np.zeros((length, parts, count, 2))
    matrix[:, 0, :, 0], matrix[:, 0, :, 1] = cos, sin
    if parts == 2:
        matrix[:, 1, :, 0], matrix[:, 1, :, 1] = -sin, cos
    return np.asarray(matrix.reshape(length * parts, count * 2) / (length if inverse else 1))


def _real_matrix(length: int, count: int) -> NDArray[np.float64]:
    """The matrix that computes a real signal from the frequencies of its one-sided transform.

    Args:
        length: the length of the signal.
        count: the number of frequencies that are given.

    Returns:
        an array of shape ``(count * 2, length)``.
    """
    angle = 2 * np.pi / length * ((np.arange(count)[:, None] * np.arange(length)[None, :]) % length)
    twice = np.full(count, 2.0)
    twice[0] = 1.0
    if length % 2 == 0 and count > length // 2:
        twice[length // 2] = 1.0
    twice[length // 2 + 1 :] = 0.0  # the other half of the spectrum does not count
    matrix = np.stack([np.cos(angle), -np.sin(angle)], axis=1) * twice[:, None, None]
    return np.asarray(matrix.reshape(count * 2, length) / length)


@rewriting("DFT")
def _dft(graph: Graph, node: onnx.NodeProto) -> bool:
    """DFT(x) --> MatMul(x, matrix). The axis and the real and imaginary parts become the last dimension of x."""
    attributes, shape = read_attributes(node), graph.shape(node.input[0])
    result = graph.shape(node.output[0])
    if shape is None or result is None or graph.elem_type(node.input[0]) not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return False
    rank, inverse = len(shape), bool(attributes.get("inverse", 0))
    axis = attributes.get("axis", 1)
    if graph.opset >= 20:
        given = graph.ints(node.input[2]) if len(node.input) > 2 and node.input[2] else [-2]
        axis = given[0] if given else None
    if not isinstance(axis, int):
        return False
    axis %= rank
    onesided = bool(attributes.get("onesided", 0))
    length = _find_length(graph, node, shape[axis], result[axis], onesided and not inverse, inverse and onesided)
    if length is None or rank < 2:
        return False
    size, parts, count = min(shape[axis], length), shape[-1], result[axis]
    if inverse and onesided:
        matrix = _real_matrix(length, size)
    else:
        matrix = fourier_matrix(length, count, parts, inverse)[: size * parts]
    if matrix.size > _MOST or result[-1] * count != matrix.shape[1]:
        return False
    x = node.input[0]
    if size < shape[axis]:
        x = graph.op("Slice", x, *(np.asarray([v], np.int64) for v in (0, size, axis)))
    order = [*(a for a in range(rank - 1) if a != axis), axis, rank - 1]
    outer = [shape[a] for a in order[:-2]]
    last = graph.op("Transpose", x, perm=order) if order != sorted(order) else x
    rows = graph.op("Reshape", last, np.asarray([*outer, size * parts], np.int64))
    product = graph.op("MatMul", rows, graph.like(node.input[0], matrix))
    moved = order != sorted(order)
    shaped = graph.op(
        "Reshape", product, np.asarray([*outer, count, result[-1]], np.int64), out="" if moved else node.output[0]
    )
    if moved:
        graph.op("Transpose", shaped, out=node.output[0], perm=[order.index(a) for a in range(rank)])
    return True


def _find_length(graph: Graph, node: onnx.NodeProto, size: int, count: int, half: bool, real: bool) -> int | None:
    """The length of a transform.

    Args:
        graph: the graph.
        node: the DFT.
        size: the extent of the axis before the transform.
        count: its extent after the transform.
        half: whether only one half of the spectrum is computed.
        real: whether a real signal is computed from one half of its spectrum.
    """
    if len(node.input) > 1 and node.input[1]:
        given = graph.ints(node.input[1])
        if given:
            return given[0]
        return None if half else count
    return 2 * (size - 1) if real else size


@rewriting("STFT")
def _stft(graph: Graph, node: onnx.NodeProto) -> bool:
    """STFT(x) --> MatMul(Gather(x, frames) * window, matrix)."""
    shape, result = graph.shape(node.input[0]), graph.shape(node.output[0])
    step = graph.ints(node.input[1])
    if shape is None or result is None or len(result) != 4:
        return False
    window = node.input[2] if len(node.input) > 2 else ""
    given = graph.ints(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    extent = graph.shape(window) if window else None
    length = given[0] if given else extent[0] if extent else None
    if length is None or (extent is not None and extent[0] > length):
        return False
    batch, samples = shape[:2]
    parts = shape[2] if len(shape) > 2 else 1
    frames = result[1]
    # Shape inference uses another default than ONNX Runtime.
    count = length // 2 + 1 if read_attributes(node).get("onesided", 1) else length
    size = extent[0] if extent is not None else length
    if step and frames and step[0] * (frames - 1) + size > samples:
        return False
    matrix = fourier_matrix(length, count, parts, inverse=False)[: size * parts]
    if matrix.size > _MOST or frames * size > _MOST:
        return False
    starts, taps = np.arange(frames, dtype=np.int64)[:, None], np.arange(size, dtype=np.int64)[None, :]
    indices: str | NDArray[np.int64]
    if step:
        indices = starts * step[0] + taps
    else:
        wide = graph.op("Cast", graph.op("Reshape", node.input[1], np.zeros(0, np.int64)), to=TensorProto.INT64)
        indices = graph.op("Add", graph.op("Mul", starts, wide), taps)
    x = graph.op("Reshape", node.input[0], np.asarray([batch, samples, parts], np.int64))
    pieces = graph.op("Gather", x, indices, axis=1)  # (batch, frames, size, parts)
    if window:
        pieces = graph.op("Mul", pieces, graph.op("Reshape", window, np.asarray([size, 1], np.int64)))
    rows = graph.op("Reshape", pieces, np.asarray([batch, frames, size * parts], np.int64))
    product = graph.op("MatMul", rows, graph.like(node.input[0], matrix))
    graph.op("Reshape", product, np.asarray([batch, frames, count, 2], np.int64), out=node.output[0])
    return True


#: The factors of cos(0), cos(x), cos(2 x), ... of a window.
_WINDOWS = {
    "HannWindow": (0.5, 0.5),
    "HammingWindow": (25 / 46, 21 / 46),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


@rewriting(*_WINDOWS)
def _window(graph: Graph, node: onnx.NodeProto) -> bool:
    """HannWindow(size) --> a constant, if the shape of the result is known. Likewise for other windows."""
    shape = graph.shape(node.output[0])
    kind = read_attributes(node).get("output_datatype", TensorProto.FLOAT)
    given = graph.ints(node.input[0])
    count = given[0] if given else shape[0] if shape else None
    if count is None or not isinstance(kind, int):
        return False
    period = count if read_attributes(node).get("periodic", 1) else count - 1
    angle = 2 * np.pi * np.arange(count) / max(period, 1)
    values = sum(factor * (-1) ** k * np.cos(k * angle) for k, factor in enumerate(_WINDOWS[node.op_type]))
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    graph.op("Identity", np.asarray(values).astype(dtype), out=node.output[0])
    return True
