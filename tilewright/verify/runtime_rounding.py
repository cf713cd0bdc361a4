"""Widens the tolerance of an executable with segments by the error of ONNX Runtime's own kernels.

ONNX Runtime computes a segment with its own kernels. The rule of :mod:`tilewright.verify.tolerance` does not know their
error. For example, its LSTM approximates sigmoids. So ONNX Runtime runs the whole model on the same inputs, and on
inputs that differ by roundings. An element of an output may differ by twice the largest error that ONNX Runtime has in
a slice through the element.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MeasureError
from tilewright.frontend.network import Network
from tilewright.measure.isolated import IsolatedProcess
from tilewright.tensor import Array
from tilewright.verify.inputs import Trial, Trials
from tilewright.verify.reference_process import RuntimeSide
from tilewright.verify.tolerance import FACTOR, compute_tolerance, is_telling, measure_jumps

__all__ = ["add_runtime_rounding"]

#: The factor of ONNX Runtime's own error that is allowed, and the number of runs that measure this error.
_TIMES, _RUNS = 2.0, 9


def add_runtime_rounding(network: Network, trials: Trials) -> Trials:
    """The trials with the noise of ONNX Runtime; the same trials if ONNX Runtime cannot run the model.

    Args:
        network: the network with the ONNX model that it was read from.
        trials: inputs with expected outputs. In the result, trials are no longer conclusive for an output whose wider
            tolerance would hide a mistake.
    """
    if network.onnx is None:
        return trials
    from tilewright.frontend.onnx.data import save_onnx
    from tilewright.frontend.onnx.shapes import release_values

    names = tuple(spec.name for spec in network.inputs)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder, "model.onnx")
        # ONNX Runtime 1.32 ends its process if it folds an If that a fixed value decides.
        save_onnx(release_values(network.onnx) or network.onnx, path)
        try:
            with IsolatedProcess(RuntimeSide, (str(path), names, True)) as runtime:
                runtime.wait()
                found = [
                    [runtime.call("rounded", list(trial.inputs), seed, float(seed > 0)) for seed in range(_RUNS)]
                    for trial in trials.trials
                ]
        except MeasureError:
            return trials
    widened = [_widen(trial, outputs) for trial, outputs in zip(trials.trials, found, strict=True)]
    return _judge_anew(replace(trials, trials=tuple(widened)))


def _widen(trial: Trial, runs: list[list[Array]]) -> Trial:
    noise = list(trial.noise)
    for outputs in runs:
        for k, (expected, own) in enumerate(zip(trial.expected, outputs, strict=True)):
            error = measure_jumps(_measure_error(expected, own))
            noise[k] = np.maximum(noise[k], error * (_TIMES / FACTOR))
    return replace(trial, noise=tuple(noise))


def _measure_error(expected: Array, own: Array) -> NDArray[np.float64]:
    """The absolute error of ONNX Runtime's numbers; 0 for integers, and where either number is not finite."""
    if expected.dtype.kind != "f" or own.shape != expected.shape:
        return np.zeros(expected.shape)
    with np.errstate(all="ignore"):
        error = np.abs(own.astype(np.float64) - expected.astype(np.float64))
    return np.where(np.isfinite(error), error, 0.0)


def _judge_anew(trials: Trials) -> Trials:
    """The trials, conclusive only for outputs that differ between trials by more than the new tolerance."""
    found = []
    for trial in trials.trials:
        others = [other.expected for other in trials.trials if other is not trial]
        flags = []
        for k, (expected, noise) in enumerate(zip(trial.expected, trial.noise, strict=True)):
            allowed = compute_tolerance(expected, noise, trials.dtypes[k] if k < len(trials.dtypes) else "float32")
            flags.append(trial.telling[k] and any(is_telling(expected, other[k], allowed) for other in others))
        found.append(replace(trial, telling=tuple(flags)))
    silent = [k for k, flags in enumerate(zip(*(trial.telling for trial in found), strict=True)) if not any(flags)]
    problem = trials.problem
    if silent and not problem:
        which = repr(trials.names[silent[0]] if silent[0] < len(trials.names) else str(silent[0]))
        problem = (
            f"no inputs were found for which a wrong result would exceed ONNX Runtime's own error in output {which}; "
            "give inputs of your own with --sample"
        )
    return replace(trials, trials=tuple(found), problem=problem)
