"""What quantising costs: the outputs of a quantised model against those of the model in floating point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.difference import OutputAccuracy
from tilewright.quantising.samples import Sample
from tilewright.tensor import Array

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OutputAccuracy", "compare_outputs", "run_model"]


def run_model(path: Path, samples: Sequence[Sample]) -> list[list[Array]]:
    """The outputs of a model for each sample, by ONNX Runtime.

    Sums of products of bytes are exact. On x86-64 without VNNI, ONNX Runtime's own choice is an instruction that adds
    two products in int16, and saturates. Errors would be those of that instruction, and not of the model: for a network
    of two convolutions the largest one was 0.20 instead of 0.05.
    """
    session = _open_session(path)
    return [list(session.run(None, dict(sample))) for sample in samples]


def _open_session(path: Path) -> onnxruntime.InferenceSession:
    """A session with exact integer kernels. These fail for weights that several operators read (ONNX Runtime 1.32).

    Then nothing is optimised, so that operators between DequantizeLinear and QuantizeLinear compute in floating point.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime's errors share no base class
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare_outputs(
    names: Sequence[str], wanted: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]
) -> list[OutputAccuracy]:
    """Compare the outputs of two models.

    Args:
        names: of the outputs. One that is no tensor of numbers is left out.
        wanted: the outputs in floating point, for each sample.
        found: those of the quantised model. Their shapes may depend on the numbers; then the error is infinite.
    """
    made = []
    for place, name in enumerate(names):
        ours, theirs = ([outputs[place] for outputs in several] for several in (found, wanted))
        if not all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" for a in (*ours, *theirs)):
            continue
        if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
            made.append(OutputAccuracy(name, math.nan, math.inf))
            continue
        kind = theirs[0].dtype.kind if theirs else "f"
        made.append(_compare(name, _join(ours), _join(theirs), kind == "f"))
    return made


def _join(arrays: Sequence[Array]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(a, np.float64).reshape(-1) for a in arrays]) if arrays else np.zeros(0)


def _compare(name: str, found: NDArray[np.float64], wanted: NDArray[np.float64], real: bool) -> OutputAccuracy:
    with np.errstate(all="ignore"):
        lengths = float(np.linalg.norm(found) * np.linalg.norm(wanted))
        cosine = float(found @ wanted) / lengths if lengths else math.nan
        if not real:
            return OutputAccuracy(name, cosine, float(np.mean(found != wanted)) if found.size else 0.0)
        largest = float(np.abs(wanted).max(initial=0.0))
        apart = float(np.abs(found - wanted).max(initial=0.0))
    return OutputAccuracy(name, cosine, apart / largest if largest else apart)
