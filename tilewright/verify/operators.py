"""Replacements for operators of ONNX's reference evaluator that are slow, inexact, or wrong.

Each works in the precision of its inputs; sums of float16 are made in float32. Those of ``contractions`` and
``windows`` are for speed; here are functions without cancellation, and what ONNX's own gets wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference.op_run import OpRun
from scipy import special

from tilewright.verify.contractions import CONTRACTIONS
from tilewright.verify.resizing import RESIZING
from tilewright.verify.windows import WINDOWS

__all__ = ["OPERATORS"]

#: Casts to these types do nothing in double precision.
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class _Operator(OpRun):
    op_domain = ""

    def _given(self, name: str) -> bool:
        """Whether the node itself has an attribute, rather than its default."""
        return any(attribute.name == name for attribute in self.onnx_node.attribute)

    def _opset(self) -> int:
        return int(self.run_params["opsets"].get("", 1))


class Sigmoid(_Operator):
    """1 / (1 + exp(-x)), precise in its tail."""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (special.expit(x).astype(x.dtype, copy=False),)


class Softplus(_Operator):
    """log(1 + exp(x)), precise in its tail."""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (np.logaddexp(x.dtype.type(0), x).astype(x.dtype, copy=False),)


class Mish(_Operator):
    """x tanh(softplus(x)), precise in its tail."""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return ((x * np.tanh(np.logaddexp(x.dtype.type(0), x))).astype(x.dtype, copy=False),)


class Erf(_Operator):
    """The error function, which ONNX's own rounds to float32."""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (special.erf(x).astype(x.dtype, copy=False),)


class Gelu(_Operator):
    """x times the normal distribution's function, precise in its tail."""

    def _run(self, x: NDArray[Any], approximate: str = "none") -> tuple[NDArray[Any]]:
        if approximate == "tanh":
            inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
            return ((x * special.expit(2 * inner)).astype(x.dtype, copy=False),)
        return ((x * special.ndtr(x)).astype(x.dtype, copy=False),)


class Softmax(_Operator):
    """Over one axis; before opset 13 over all from ``axis`` on."""

    def _run(self, x: NDArray[Any], axis: int = -1) -> tuple[NDArray[Any]]:
        shifted, axes = self._shifted(x, axis)
        values = np.exp(shifted)
        return ((values / values.sum(axis=axes, keepdims=True)).astype(x.dtype, copy=False),)

    def _shifted(self, x: NDArray[Any], axis: int) -> tuple[NDArray[Any], tuple[int, ...]]:
        axes: tuple[int, ...] = (axis,)
        if self._opset() < 13:
            axis = axis if self._given("axis") else 1
            axes = tuple(range(axis % x.ndim if x.ndim else 0, x.ndim))
        if not x.size:
            return x, axes
        return x - x.max(axis=axes, keepdims=True), axes


class LogSoftmax(Softmax):
    """Without the logarithm of a value that was rounded to 0."""

    def _run(self, x: NDArray[Any], axis: int = -1) -> tuple[NDArray[Any]]:
        shifted, axes = self._shifted(x, axis)
        return ((shifted - np.log(np.exp(shifted).sum(axis=axes, keepdims=True))).astype(x.dtype, copy=False),)


class BatchNormalization(_Operator):
    """With given statistics: ONNX's own trains up to opset 13."""

    def _run(
        self,
        x: NDArray[Any],
        scale: NDArray[Any],
        bias: NDArray[Any],
        mean: NDArray[Any],
        var: NDArray[Any],
        epsilon: float = 1e-5,
        training_mode: int = 0,
        **_: Any,
    ) -> tuple[NDArray[Any]]:
        if training_mode:
            raise NotImplementedError("batch normalization in training mode")
        column = (-1,) + (1,) * (x.ndim - 2)
        factor = scale / np.sqrt(var + epsilon)
        result = x * factor.reshape(column)
        result += (bias - mean * factor).reshape(column)
        return (result.astype(x.dtype, copy=False),)


class LRN(_Operator):
    """Over neighbouring channels, where ONNX's own goes through the batch instead of the channels."""

    def _run(
        self, x: NDArray[Any], size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
    ) -> tuple[NDArray[Any]]:
        before, after = (size - 1) // 2, size // 2
        padding = [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)]
        squares = np.pad(x * x, padding)
        total = sum(squares[:, shift : shift + x.shape[1]] for shift in range(size))
        return ((x / (bias + (alpha / size) * total) ** beta).astype(x.dtype, copy=False),)


class Cast(_Operator):
    """To another type; between floating-point types not in double precision."""

    def _run(self, x: NDArray[Any], to: int = 0, **_: Any) -> tuple[NDArray[Any]]:
        if to == TensorProto.STRING:
            raise NotImplementedError("casts to strings")
        double = self.run_params["evaluator_cls"].double
        kind = np.dtype(np.float64) if double and to in _FLOATS else helper.tensor_dtype_to_np_dtype(to)
        return (x.astype(kind),)


class Div(_Operator):
    """Integers are divided towards zero, and never by zero."""

    def _run(self, a: NDArray[Any], b: NDArray[Any], **_: Any) -> tuple[NDArray[Any]]:
        if a.dtype.kind == "f":
            return (np.divide(a, b).astype(a.dtype, copy=False),)
        if not np.all(b):
            raise ZeroDivisionError("an integer is divided by zero")
        quotient = np.floor_divide(a, b)
        inexact = (quotient * b != a) & ((a < 0) != (b < 0))
        return ((quotient + inexact).astype(a.dtype, copy=False),)


class Mod(_Operator):
    """The remainder, never of a division of integers by zero."""

    def _run(self, a: NDArray[Any], b: NDArray[Any], fmod: int = 0) -> tuple[NDArray[Any]]:
        if a.dtype.kind != "f" and not np.all(b):
            raise ZeroDivisionError("an integer is divided by zero")
        return ((np.fmod(a, b) if fmod else np.mod(a, b)).astype(a.dtype, copy=False),)


class DequantizeLinear(_Operator):
    """(x - zero point) * scale; ONNX's own makes the difference in float32, which int32 does not fit."""

    def _run(
        self,
        x: NDArray[Any],
        scale: NDArray[Any],
        zero: NDArray[Any] | None = None,
        axis: int = 1,
        block_size: int = 0,
        **_: Any,
    ) -> tuple[NDArray[Any]]:
        if block_size or x.dtype.kind not in "iu":
            raise NotImplementedError("quantization by blocks, or to floating-point numbers")
        column = (-1,) + (1,) * (x.ndim - axis % max(1, x.ndim) - 1) if scale.ndim and scale.size > 1 else ()
        whole = x.astype(np.float64)
        if zero is not None:
            whole = whole - zero.astype(np.float64).reshape(column)
        return ((whole * scale.reshape(column)).astype(scale.dtype, copy=False),)


OPERATORS: tuple[type[OpRun], ...] = (
    *(Sigmoid, Softplus, Mish, Erf, Gelu, Softmax, LogSoftmax, BatchNormalization, LRN, Cast, Div, Mod),
    DequantizeLinear,
)
OPERATORS += CONTRACTIONS + WINDOWS + RESIZING
