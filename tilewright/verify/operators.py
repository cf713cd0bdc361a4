"""Replacements for operators of ONNX's reference evaluator that are slow, imprecise or wrong.

Each operator computes in the precision of its inputs, but adds up float16 in float32. Here are functions without
cancellation, and operators that ONNX's evaluator gets wrong. The operators of ``contractions``, ``windows`` and
``resizing`` are replaced because they are slow.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from onnx.reference.op_run import OpRun

from tilewright.tensor import Array, Floats, Numbers
from tilewright.verify import special
from tilewright.verify.attributes import Attributes
from tilewright.verify.contractions import CONTRACTIONS
from tilewright.verify.recurrent import RECURRENT
from tilewright.verify.resizing import RESIZING
from tilewright.verify.windows import WINDOWS

__all__ = ["OPERATORS"]

#: Types that no program computes in: a cast to one of these gives float32.
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
#: In double precision a cast to one of these types gives float64.
_FLOATS = (*_HALF, TensorProto.FLOAT, TensorProto.DOUBLE)


class _Operator(OpRun):
    op_domain = ""

    def _given(self, name: str) -> bool:
        """Whether the node itself has an attribute, rather than ONNX's default for it."""
        return any(attribute.name == name for attribute in self.onnx_node.attribute)

    def _opset(self) -> int:
        return int(self.run_params["opsets"].get("", 1))


class Sigmoid(_Operator):
    """``1 / (1 + exp(-x))``, precise in its tail."""

    def _run(self, x: Floats) -> tuple[Floats]:
        return (special.expit(x).astype(x.dtype, copy=False),)


class Softplus(_Operator):
    """``log(1 + exp(x))``, precise in its tail."""

    def _run(self, x: Floats) -> tuple[Floats]:
        return (np.logaddexp(x.dtype.type(0), x).astype(x.dtype, copy=False),)


class Mish(_Operator):
    """``x tanh(softplus(x))``, precise in its tail."""

    def _run(self, x: Floats) -> tuple[Floats]:
        return ((x * np.tanh(np.logaddexp(x.dtype.type(0), x))).astype(x.dtype, copy=False),)


class Erf(_Operator):
    """The error function. ONNX's evaluator rounds it to float32."""

    def _run(self, x: Floats) -> tuple[Floats]:
        return (special.erf(x).astype(x.dtype, copy=False),)


class Gelu(_Operator):
    """``x`` times the distribution function of the normal distribution, precise in its tail."""

    def _run(self, x: Floats, approximate: str = "none") -> tuple[Floats]:
        if approximate == "tanh":
            inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
            return ((x * special.expit(2 * inner)).astype(x.dtype, copy=False),)
        return ((x * special.ndtr(x)).astype(x.dtype, copy=False),)


class Softmax(_Operator):
    """A softmax over one axis. Before opset 13 it is over all axes from ``axis`` on."""

    def _run(self, x: Floats, axis: int = -1) -> tuple[Floats]:
        shifted, axes = self._shift(x, axis)
        values = np.exp(shifted)
        return ((values / values.sum(axis=axes, keepdims=True)).astype(x.dtype, copy=False),)

    def _shift(self, x: Floats, axis: int) -> tuple[Floats, tuple[int, ...]]:
        """``x`` without its maximum over the axes of the softmax, and these axes."""
        axes: tuple[int, ...] = (axis,)
        if self._opset() < 13:
            axis = axis if self._given("axis") else 1
            axes = tuple(range(axis % x.ndim if x.ndim else 0, x.ndim))
        if not x.size:
            return x, axes
        return x - x.max(axis=axes, keepdims=True), axes


class LogSoftmax(Softmax):
    """The logarithm of a softmax. No value is rounded to 0 before its logarithm is taken."""

    def _run(self, x: Floats, axis: int = -1) -> tuple[Floats]:
        shifted, axes = self._shift(x, axis)
        return ((shifted - np.log(np.exp(shifted).sum(axis=axes, keepdims=True))).astype(x.dtype, copy=False),)


class BatchNormalization(_Operator):
    """Normalizes with given statistics. ONNX's evaluator computes statistics itself up to opset 13."""

    def _run(
        self,
        x: Floats,
        scale: Floats,
        bias: Floats,
        mean: Floats,
        var: Floats,
        epsilon: float = 1e-5,
        training_mode: int = 0,
        **_: object,
    ) -> tuple[Floats]:
        if training_mode:
            raise NotImplementedError("batch normalization in training mode")
        column = (-1,) + (1,) * (x.ndim - 2)
        factor = scale / np.sqrt(var + epsilon)
        result = x * factor.reshape(column)
        result += (bias - mean * factor).reshape(column)
        return (result.astype(x.dtype, copy=False),)


class LRN(_Operator):
    """Local response normalization over neighbouring channels. ONNX's evaluator goes through the batch instead."""

    def _run(self, x: Floats, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> tuple[Floats]:
        before, after = (size - 1) // 2, size // 2
        padding = [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)]
        squares = np.pad(x * x, padding)
        total = sum(squares[:, shift : shift + x.shape[1]] for shift in range(size))
        return ((x / (bias + (alpha / size) * total) ** beta).astype(x.dtype, copy=False),)


class Cast(_Operator):
    """Converts to another type. In double precision every floating-point type is float64."""

    def _run(self, x: Array, to: int = 0, **_: object) -> tuple[Array]:
        if to == TensorProto.STRING:
            raise NotImplementedError("casts to strings")
        double = self.run_params["evaluator_cls"].double
        if double and to in _FLOATS:
            kind = np.dtype(np.float64)
        else:
            kind = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT if to in _HALF else to)
        return (x.astype(kind),)


class Div(_Operator):
    """A quotient. Integers are divided towards zero, and never by zero."""

    def _run(self, a: Numbers, b: Numbers) -> tuple[Numbers]:
        if a.dtype.kind == "f":
            return (np.divide(a, b).astype(a.dtype, copy=False),)
        if not np.all(b):
            raise ZeroDivisionError("an integer is divided by zero")
        quotient = np.floor_divide(a, b)
        inexact = (quotient * b != a) & (np.less(a, 0) != np.less(b, 0))
        return ((quotient + inexact).astype(a.dtype, copy=False),)


class Mod(_Operator):
    """The remainder of a division. Integers are never divided by zero."""

    def _run(self, a: Numbers, b: Numbers, fmod: int = 0) -> tuple[Numbers]:
        if a.dtype.kind != "f" and not np.all(b):
            raise ZeroDivisionError("an integer is divided by zero")
        return ((np.fmod(a, b) if fmod else np.mod(a, b)).astype(a.dtype, copy=False),)


class DequantizeLinear(_Operator):
    """``(x - zero) * scale``. ONNX's evaluator subtracts in float32, which does not hold every int32."""

    def _run(self, x: Numbers, scale: Floats, zero: Numbers | None = None, **given: object) -> tuple[Floats]:
        attributes = Attributes(given)
        few = x.dtype.name in (
            "int4",
            "uint4",
        )  # types of ml_dtypes, of which NumPy does not say that they are integers
        if x.dtype.kind not in "iu" and not few:
            raise NotImplementedError("quantization to floating-point numbers")
        axis, block = attributes.integer("axis", 1), attributes.integer("block_size", 0)
        if block:
            levels = x.astype(np.float64)
            moved = 0.0 if zero is None else _repeat(zero.astype(np.float64), block, axis, x.shape)
            return (((levels - moved) * _repeat(scale, block, axis, x.shape)).astype(scale.dtype, copy=False),)
        column = (-1,) + (1,) * (x.ndim - axis % max(1, x.ndim) - 1) if scale.ndim and scale.size > 1 else ()
        whole = x.astype(np.float64)
        if zero is not None:
            whole = whole - zero.astype(np.float64).reshape(column)
        return ((whole * scale.reshape(column)).astype(scale.dtype, copy=False),)


def _repeat(numbers: Floats, block: int, axis: int, shape: tuple[int, ...]) -> Floats:
    """Numbers of blocks along an axis as numbers of elements. The last block may stick out."""
    return np.repeat(numbers, block, axis)[tuple(map(slice, shape))]


OPERATORS: tuple[type[OpRun], ...] = (
    *(Sigmoid, Softplus, Mish, Erf, Gelu, Softmax, LogSoftmax, BatchNormalization, LRN, Cast, Div, Mod),
    DequantizeLinear,
)
OPERATORS += CONTRACTIONS + WINDOWS + RESIZING + RECURRENT
