"""Evaluates an ONNX model in double precision, or in its own, by ONNX's reference evaluator with replaced operators.

In double precision every float16, bfloat16 or float32 of the model becomes float64: weights, constants, inputs, results
of casts, also in local functions and in branches of control flow. Integers stay as they are.

A model of float16 or bfloat16 is evaluated in float32 instead of its own precision, since programs compute it in
float32. A model whose products are to be of bfloat16 numbers (``tune --precision bf16``) is evaluated without
rounding their operands. How far that rounding may move the outputs is measured, by disturbances of its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from tilewright.frontend.network import multiplies_bf16
from tilewright.tensor import Array
from tilewright.verify.freedom import Freedom, disturb_values
from tilewright.verify.operators import OPERATORS

__all__ = ["OnnxEvaluator"]

#: Element types that no program computes in; those that become float64 in double precision.
_HALF = ("float16", "bfloat16")
_NARROW = (*_HALF, "float32")


class OnnxEvaluator:
    """Evaluates one model.

    Args:
        model: a model of opsets that ONNX's reference evaluator knows.
        names: the names of its inputs, in the order in which a caller gives them.
        double: True: evaluates in double precision; False: in the model's own precision, but at least in float32, with
            the disturbances that ``freedom`` has.

    Attributes:
        freedom: how much an evaluation in the model's own precision is disturbed.

    Raises:
        Exception: the evaluator lacks an operator. Its exceptions share no base class.
    """

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], double: bool) -> None:
        self.freedom = Freedom(multiplies_bf16(model))
        kind = type(
            "Evaluator", (_Evaluator,), {"double": double, "freedom": self.freedom, "narrow": not _has_double(model)}
        )
        self._evaluator = kind(model)
        self._names = list(names)
        self._double = double

    def run(self, inputs: Sequence[Array]) -> list[NDArray[Any]]:
        """The model's outputs for ``inputs``."""
        feeds = dict(zip(self._names, inputs, strict=True))
        feeds = {name: _widen_array(array, self._double) for name, array in feeds.items()}
        with np.errstate(all="ignore"):
            return [np.asarray(output) for output in self._evaluator.run(None, feeds)]


class _Evaluator(ReferenceEvaluator):
    """Makes evaluators of its own class for functions and branches, so the class holds what all of them share."""

    double: ClassVar[bool]
    narrow: ClassVar[bool]
    freedom: ClassVar[Freedom]

    def __init__(self, proto: object, **options: object) -> None:
        super().__init__(proto, **(options | {"new_ops": list(OPERATORS)}))  # type: ignore[arg-type]

    def _init(self) -> None:
        super()._init()
        self.rt_inits_ = {name: _widen_array(array, self.double) for name, array in self.rt_inits_.items()}
        self.rt_nodes_ = [_Node(node, type(self)) for node in self.rt_nodes_]


class _Node:
    """A node of the evaluator that gives its outputs the precision of the evaluation."""

    def __init__(self, node: OpRun, evaluator: type[_Evaluator]) -> None:
        self._node = node
        self._evaluator = evaluator

    def __getattr__(self, name: str) -> object:
        return getattr(self._node, name)

    def run(self, *inputs: object, **options: object) -> tuple[object, ...]:
        """The node's outputs."""
        outputs: tuple[object, ...] = self._node.run(*inputs, **options)  # type: ignore[no-untyped-call]
        outputs = tuple(_widen(output, self._evaluator.double) for output in outputs)
        if self._evaluator.double:
            return outputs
        if self._evaluator.narrow:
            outputs = tuple(map(_narrow, outputs))
        return disturb_values(self._evaluator.freedom, self._node.op_type, outputs)


def _widen(value: object, double: bool) -> object:
    """An array, or each array of a sequence, with wider numbers in place of narrow ones."""
    if isinstance(value, list):
        return [_widen(part, double) for part in value]
    return _widen_array(value, double) if isinstance(value, np.ndarray) else value


def _widen_array(array: Array, double: bool) -> Array:
    """An array in float64 if it is in a narrower type; if not ``double``, in float32 if it is in a half one."""
    if double:
        return array.astype(np.float64) if array.dtype.name in _NARROW else array
    return array.astype(np.float32) if array.dtype.name in _HALF else array


def _narrow(value: object) -> object:
    """An array in float32 if NumPy computed it in double precision, although nothing in the model is."""
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value


def _has_double(model: onnx.ModelProto) -> bool:
    """Whether a weight, an input or an attribute of the model is of double precision."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in model.graph.input}
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        for attribute in node.attribute:
            kinds |= {attribute.i} if attribute.name in ("to", "dtype", "output_dtype") else {attribute.t.data_type}
    return onnx.TensorProto.DOUBLE in kinds
