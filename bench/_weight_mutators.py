"""Mistakes in a network's constants: weights, biases, scales, tables. See ``bench._mutators``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bench._surgery import CONTRACTIONS, NORMS, Mutator, Surgery, attribute

__all__ = ["WEIGHT_MUTATORS"]


def _of_weight(change: Callable[[Surgery, onnx.NodeProto, NDArray[Any]], NDArray[Any] | None]) -> Mutator:
    """A mutator that changes the weight of a contraction."""

    def mutate(s: Surgery) -> str | None:
        nodes = [n for n in s.nodes if n.op_type in CONTRACTIONS and s.weight(n.input[1]) is not None]
        for place in s.rng.permutation(len(nodes)):
            node = nodes[place]
            weight = s.weight(node.input[1])
            assert weight is not None
            made = change(s, node, weight)
            if made is not None:
                s.set_weight(node.input[1], made)
                return str(node.name or node.output[0])
        return None

    return mutate


def _outputs_axis(node: onnx.NodeProto) -> int:
    """Which axis of a weight is that of the outputs."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def _negated(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any]:
    return -weight


def _transposed(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
    if weight.ndim == 4 and weight.shape[-1] == weight.shape[-2] > 1:
        return weight.swapaxes(-1, -2)
    if weight.ndim == 2:  # as if it lay by columns
        return np.ascontiguousarray(weight.T).reshape(weight.shape)
    return None


def _output_off(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
    axis = _outputs_axis(node)
    return np.roll(weight, 1, axis) if weight.ndim > axis and weight.shape[axis] > 1 else None


def _input_off(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
    axis = 1 - _outputs_axis(node)
    return np.roll(weight, 1, axis) if weight.ndim >= 2 and weight.shape[axis] > 1 else None


def _channel_lost(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
    axis = _outputs_axis(node)
    made = weight.copy()
    made[(slice(None),) * axis + (int(s.rng.integers(weight.shape[axis])),)] = 0
    return made


def _group_off(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
    groups = int(attribute(node, "group", 1))
    return np.roll(weight, weight.shape[0] // groups, 0) if groups > 1 else None


def _bias(s: Surgery, change: Callable[[NDArray[Any]], NDArray[Any]]) -> str | None:
    """Change a vector that is added."""

    def vector(node: onnx.NodeProto) -> str | None:
        names = node.input[2:3] if node.op_type in ("Conv", "Gemm", "ConvTranspose") else node.input
        for name in names:
            weight = s.weight(name)
            if weight is not None and weight.ndim == 1 and weight.size > 1 and weight.dtype == np.float32:
                return str(name)
        return None

    node = s.find("Conv", "Gemm", "ConvTranspose", "Add", where=lambda n: vector(n) is not None)
    if node is None:
        return None
    name = vector(node)
    assert name is not None
    values = s.weight(name)
    assert values is not None
    s.set_weight(name, change(values))
    return str(node.name or node.output[0])


def _bias_off(s: Surgery) -> str | None:
    return _bias(s, lambda values: np.roll(values, 1))


def _bias_lost(s: Surgery) -> str | None:
    return _bias(s, np.zeros_like)


def _norm_off(s: Surgery) -> str | None:
    node = s.find(*NORMS, where=lambda n: s.weight(n.input[1]) is not None)
    if node is None:
        return None
    values = s.weight(node.input[1])
    assert values is not None
    s.set_weight(node.input[1], np.roll(values, 1))
    return str(node.name or node.output[0])


def _index_off(s: Surgery) -> str | None:
    node = s.find("Gather", where=lambda n: (w := s.weight(n.input[0])) is not None and w.dtype == np.float32)
    table = s.weight(node.input[0]) if node is not None else None
    if node is None or table is None:
        return None
    s.set_weight(node.input[0], np.roll(table, 1, int(attribute(node, "axis", 0))))
    return str(node.name or node.output[0])


def _constant_off(s: Surgery) -> str | None:
    def scalar(node: onnx.NodeProto) -> str | None:
        return next(
            (n for n in node.input if (w := s.weight(n)) is not None and w.size == 1 and w.dtype == np.float32), None
        )

    node = s.find("Mul", "Div", "Add", "Sub", where=lambda n: scalar(n) is not None)
    name = scalar(node) if node is not None else None
    values = s.weight(name) if name is not None else None
    if node is None or name is None or values is None:
        return None
    s.set_weight(name, values * np.float32(1.1))
    return str(node.name or node.output[0])


#: Mutators by the name of the mistake.
WEIGHT_MUTATORS: dict[str, Mutator] = {
    "negated weights": _of_weight(_negated),
    "transposed weights": _of_weight(_transposed),
    "output channels off by one": _of_weight(_output_off),
    "input channels off by one": _of_weight(_input_off),
    "a channel lost": _of_weight(_channel_lost),
    "groups off by one": _of_weight(_group_off),
    "bias of another channel": _bias_off,
    "bias lost": _bias_lost,
    "scale of another channel": _norm_off,
    "index off by one": _index_off,
    "constant 10 % off": _constant_off,
}
