"""The objects that evaluate an ONNX model, each in a process that may die: ONNX's evaluator and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.network import PRODUCTS
from tilewright.tensor import Array
from tilewright.verify.freedom import HALF

if TYPE_CHECKING:
    import onnx

    from tilewright.verify.evaluator import OnnxEvaluator

__all__ = ["EvaluatorSide", "RuntimeSide", "multiplies_bytes"]

#: The size of the disturbances of ONNX Runtime's inputs, relative to the inputs: some roundings of float32.
_ROUNDING = 2.0**-21
#: The operators that sum products of bytes.
_BYTE_PRODUCTS = frozenset(
    (
        *("ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat"),
        *("QAttention", "QGemm", "QLinearConv", "QLinearMatMul"),
    )
)


def multiplies_bytes(model: onnx.ModelProto) -> bool:
    """Whether a model has operators that sum products of bytes.

    On x86-64 without VNNI, these saturate in ONNX Runtime, unless it optimises the model: then it has exact kernels.
    """
    from tilewright.frontend.onnx.data import graphs

    return any(node.op_type in _BYTE_PRODUCTS for graph in graphs(model) for node in graph.node)


class EvaluatorSide:
    """An ONNX model in double precision, or in its own.

    Args:
        path: the model's file.
        names: the names of its inputs, in the order in which a caller gives them.
        double: whether :meth:`outputs` are in double precision.
    """

    def __init__(self, path: str, names: Sequence[str], double: bool) -> None:
        self._path, self._names = path, names
        self._evaluator = self._make(double)
        self._own = None if double else self._evaluator

    def _make(self, double: bool) -> OnnxEvaluator:
        import onnx

        from tilewright.verify.evaluator import OnnxEvaluator

        return OnnxEvaluator(onnx.load(self._path), self._names, double)

    def outputs(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for ``inputs``; in double precision only if this object was made so."""
        return self._evaluator.run(inputs)

    def rounded(self, inputs: Sequence[Array], seed: int, amplitude: float) -> list[Array]:
        """The outputs in the model's own precision, disturbed.

        Args:
            inputs: the inputs.
            seed: the seed of the disturbances.
            amplitude: their size, in units of what correct programs may differ by.
        """
        if self._own is None:
            self._own = self._make(double=False)
        self._own.freedom.choose(seed, amplitude)
        return self._own.run(inputs)


class RuntimeSide:
    """An ONNX model in ONNX Runtime.

    Args:
        path: the model's file.
        names: the names of its inputs, in the order in which a caller gives them.
        optimised: whether ONNX Runtime optimises the model. Then sums of products of bytes are exact, as
            :func:`multiplies_bytes` says. It fails if several operators read a weight of bytes (ONNX Runtime 1.32).
    """

    def __init__(self, path: str, names: Sequence[str], optimised: bool = False) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_prepacking", "1")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = list(names)
        halved = self._session.get_modelmeta().custom_metadata_map.get(PRODUCTS)
        self._size = _ROUNDING if halved is None else HALF

    def outputs(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for ``inputs``, in the model's own precision."""
        feeds = dict(zip(self._names, inputs, strict=True))
        return [np.asarray(output) for output in self._session.run(None, feeds)]

    def rounded(self, inputs: Sequence[Array], seed: int, amplitude: float) -> list[Array]:
        """The outputs for disturbed inputs; ``amplitude`` 1 changes each number by some roundings of a program's."""
        generator = np.random.default_rng(seed)
        disturbed: list[Array] = []
        for array in inputs:
            if array.dtype.kind == "f":
                factors = 1 + amplitude * self._size * generator.standard_normal(array.shape)
                array = np.multiply(array, factors).astype(array.dtype)
            disturbed.append(array)
        return self.outputs(disturbed)
