"""The references' side: what runs in the process of a reference, and may die there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["EvaluatorSide", "RuntimeSide"]

Arrays: TypeAlias = Sequence[NDArray[Any]]


class EvaluatorSide:
    """An ONNX model in double precision, or in its own.

    Args:
        path: of the model.
        names: of its inputs, in the order in which they are given.
        double: whether in double precision.
    """

    def __init__(self, path: str, names: Sequence[str], double: bool) -> None:
        import onnx

        from tilewright.verify.evaluator import OnnxEvaluator

        self._evaluator = OnnxEvaluator(onnx.load(path), names, double)

    def outputs(self, inputs: Arrays) -> list[NDArray[Any]]:
        """In double precision."""
        return self._evaluator.run(inputs)

    def rounded(self, inputs: Arrays, seed: int, amplitude: float) -> list[NDArray[Any]]:
        """In the model's own precision, disturbed by ``amplitude`` times what a correct program may differ by."""
        self._evaluator.freedom.choose(seed, amplitude)
        return self._evaluator.run(inputs)


class RuntimeSide:
    """An ONNX model in ONNX Runtime, without any optimisation.

    Args:
        path: of the model.
        names: of its inputs, in the order in which they are given.
    """

    def __init__(self, path: str, names: Sequence[str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_prepacking", "1")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = list(names)

    def outputs(self, inputs: Arrays) -> list[NDArray[Any]]:
        """The outputs for ``inputs``, in the model's own precision."""
        feeds = dict(zip(self._names, inputs, strict=True))
        return [np.asarray(output) for output in self._session.run(None, feeds)]

    def rounded(self, inputs: Arrays, seed: int, amplitude: float) -> list[NDArray[Any]]:
        """The outputs for inputs that are disturbed by ``amplitude`` times some roundings."""
        generator = np.random.default_rng(seed)
        size = amplitude * 2.0**-21
        return self.outputs(
            [
                (a * (1 + size * generator.standard_normal(a.shape))).astype(a.dtype) if a.dtype.kind == "f" else a
                for a in inputs
            ]
        )
