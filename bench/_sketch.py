"""Builds small ONNX networks in few lines: each operator is one call, and weights are random but fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Sketch"]


class Sketch:
    """An ONNX graph that grows by one operator a call. Tensors are named by texts.

    Args:
        seed: of the weights.
        opset: version of ONNX's operators.
    """

    def __init__(self, seed: int, opset: int = 17) -> None:
        self._rng = np.random.default_rng(seed)
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, *shape: int, dtype: int = TensorProto.FLOAT) -> str:
        """An input of the network."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, tensor: str, name: str, dtype: int = TensorProto.FLOAT) -> None:
        """Give ``tensor`` the name ``name`` and make it an output of the network."""
        next(node for node in self._nodes if tensor in node.output).output[:] = [name]
        for node in self._nodes:
            node.input[:] = [name if read == tensor else read for read in node.input]
        self._outputs.append(helper.make_tensor_value_info(name, dtype, None))

    def constant(self, values: NDArray[Any], name: str = "") -> str:
        """A weight with these values."""
        name = name or f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def number(self, value: float) -> str:
        """A scalar of float32."""
        return self.constant(np.asarray(value, np.float32))

    def integers(self, *values: int) -> str:
        """A vector of int64, as axes, shapes and pads are given."""
        return self.constant(np.asarray(values, np.int64))

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> str:
        """A weight of normal random values."""
        return self.constant((mean + scale * self._rng.standard_normal(shape)).astype(np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """An operator; returns its first output."""
        made = [f"t{len(self._nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        name = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), made, name=name, **attributes))
        return made[0]

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        """Equal parts of ``x`` along ``axis``; the attribute is understood by opsets up to 17."""
        first = self.op("Split", x, outputs=parts, axis=axis)
        return [first, *(f"{first}_{i}" for i in range(1, parts))]

    def conv(
        self, x: str, shape: Sequence[int], act: str = "", *, pad: int | None = None, bias: float = 0.0, **more: Any
    ) -> str:
        """A convolution with weights of ``shape`` (O, I/groups, *kernel), a bias of this mean, and an activation."""
        pad = shape[2] // 2 if pad is None else pad
        weight = self.normal(*shape, scale=math.sqrt(2 / math.prod(shape[1:])))
        pads = [pad] * (2 * (len(shape) - 2))
        kernel = list(shape[2:])
        made = self.op(
            "Conv", x, weight, self.normal(shape[0], scale=0.1, mean=bias), kernel_shape=kernel, pads=pads, **more
        )
        return self.activate(made, act)

    def dense(self, x: str, wide: int, out: int, act: str = "", scale: float = 1.0) -> str:
        """A matrix product with a weight ``(wide, out)``, a bias, and an activation."""
        weight = self.normal(wide, out, scale=scale * math.sqrt(1 / wide))
        return self.activate(self.op("Add", self.op("MatMul", x, weight), self.normal(out, scale=0.1)), act)

    def batch_norm(self, x: str, channels: int, act: str = "") -> str:
        """A batch norm of random statistics, and an activation."""
        scale, shift = self.normal(channels, scale=0.1, mean=1.0), self.normal(channels, scale=0.1)
        mean, variance = self.normal(channels, scale=0.1), self.constant(self._positive(channels))
        return self.activate(self.op("BatchNormalization", x, scale, shift, mean, variance), act)

    def layer_norm(self, x: str, wide: int) -> str:
        """A layer norm over the last axis."""
        scale, shift = self.normal(wide, scale=0.2, mean=1.0), self.normal(wide, scale=0.1)
        return self.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-5)

    def activate(self, x: str, kind: str) -> str:
        """``x`` through an activation: an operator's name, or gelu, swish, mish or relu6; the empty text for none."""
        if kind == "gelu":
            tail = self.op("Add", self.op("Erf", self.op("Div", x, self.number(math.sqrt(2)))), self.number(1))
            return self.op("Mul", self.op("Mul", x, tail), self.number(0.5))
        if kind == "swish":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if kind == "mish":
            return self.op("Mul", x, self.op("Tanh", self.op("Softplus", x)))
        if kind == "relu6":
            return self.op("Clip", x, self.number(0), self.number(6))
        return self.op(kind, x) if kind else x

    def attention(self, x: str, tokens: int, wide: int, heads: int, mask: str = "") -> str:
        """Self-attention of ``(1, tokens, wide)``, its projections included; ``mask`` is added to the scores."""
        depth = wide // heads
        shape = self.integers(1, tokens, heads, depth)
        q, k, v = (self.op("Reshape", self.dense(x, wide, wide), shape) for _ in range(3))
        q, v = (self.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 2, 3, 1]))
        scores = self.op("Div", scores, self.number(math.sqrt(depth)))
        if mask:
            scores = self.op("Add", scores, mask)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        merged = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.dense(self.op("Reshape", merged, self.integers(1, tokens, wide)), wide, wide)

    def encoder(self, x: str, tokens: int, wide: int, heads: int, mask: str = "") -> str:
        """A layer of a transformer: attention, then dense layers with GELU, each after a layer norm, with residuals."""
        x = self.op("Add", x, self.attention(self.layer_norm(x, wide), tokens, wide, heads, mask))
        inner = self.dense(self.layer_norm(x, wide), wide, 2 * wide, "gelu")
        return self.op("Add", x, self.dense(inner, 2 * wide, wide))

    def model(self) -> onnx.ModelProto:
        """The network, checked, with the shapes of its outputs."""
        graph = helper.make_graph(self._nodes, "g", self._inputs, self._outputs, self._weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=8)
        made = onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
        onnx.checker.check_model(made)
        return made

    def _positive(self, count: int) -> NDArray[np.float32]:
        return self._rng.uniform(0.5, 1.5, count).astype(np.float32)
