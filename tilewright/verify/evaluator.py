"""An ONNX model evaluated in double precision, or in its own: ONNX's reference evaluator with exact, fast operators.

In double precision every float16 or float32 of the model (weights, constants, inputs, results of casts) becomes
float64, in local functions and branches of control flow too. Integers stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from tilewright.verify.freedom import Freedom, disturb_values
from tilewright.verify.operators import OPERATORS

__all__ = ["OnnxEvaluator"]

#: Element types that are widened to float64.
_NARROW = ("float16", "float32", "bfloat16")


class OnnxEvaluator:
    """Evaluates one model.

    Args:
        model: of opsets that ONNX's reference evaluator knows.
        names: of its inputs, in the order in which they are given.
        double: whether in double precision; otherwise in the model's own, with the freedom that
            :class:`~tilewright.verify.freedom.Freedom` has.

    Raises:
        Exception: an operator that the evaluator lacks; its exceptions share no base class.
    """

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], double: bool) -> None:
        self.freedom = Freedom()
        kind = type(
            "Evaluator", (_Evaluator,), {"double": double, "freedom": self.freedom, "narrow": not _has_double(model)}
        )
        self._evaluator = kind(model)
        self._names = list(names)
        self._double = double

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for ``inputs``."""
        feeds = dict(zip(self._names, inputs, strict=True))
        if self._double:
            feeds = {name: _wide(array) for name, array in feeds.items()}
        with np.errstate(all="ignore"):
            return [np.asarray(output) for output in self._evaluator.run(None, feeds)]


class _Evaluator(ReferenceEvaluator):
    """Also made for functions and branches, by the class of what they are part of."""

    double: ClassVar[bool]
    narrow: ClassVar[bool]
    freedom: ClassVar[Freedom]

    def __init__(self, proto: Any, **options: Any) -> None:
        super().__init__(proto, **(options | {"new_ops": list(OPERATORS)}))

    def _init(self) -> None:
        super()._init()
        if self.double:
            self.rt_inits_ = {name: _wide(array) for name, array in self.rt_inits_.items()}
        self.rt_nodes_ = [_Node(node, type(self)) for node in self.rt_nodes_]


class _Node:
    """A node, and what its precision is."""

    def __init__(self, node: Any, evaluator: type[_Evaluator]) -> None:
        self._node = node
        self._evaluator = evaluator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def run(self, *inputs: Any, **options: Any) -> tuple[Any, ...]:
        """The node's outputs."""
        outputs = self._node.run(*inputs, **options)
        if self._evaluator.double:
            return tuple(map(_wide, outputs))
        if self._evaluator.narrow:
            outputs = tuple(map(_narrow, outputs))
        return disturb_values(self._evaluator.freedom, self._node.op_type, outputs)


def _wide(value: Any) -> Any:
    if isinstance(value, list):  # a sequence
        return [_wide(part) for part in value]
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.name in _NARROW else value


def _narrow(value: Any) -> Any:
    """What NumPy computed in double precision although nothing in the model is."""
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value


def _has_double(model: onnx.ModelProto) -> bool:
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in model.graph.input}
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        for attribute in node.attribute:
            kinds |= {attribute.i} if attribute.name in ("to", "dtype", "output_dtype") else {attribute.t.data_type}
    return onnx.TensorProto.DOUBLE in kinds
