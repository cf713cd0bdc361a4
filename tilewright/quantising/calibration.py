"""Finds the range of each tensor of a model from samples, and the tensors whose range is too wide for bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tilewright.quantising.samples import Sample
from tilewright.tensor import Array

__all__ = ["CALIBRATORS", "calibrate", "make_reader"]

#: ONNX Runtime's names of the calibrations of :mod:`tilewright.quantising.plan`.
CALIBRATORS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
#: The bins of entropy's histograms, as many as ONNX Runtime gives percentiles; and the samples that fill them at once,
#: since all of their tensors are held.
_BINS, _AT_ONCE = 2048, 4
#: A tensor that reaches beyond this stays in floating point. Masks add -10,000 or the least float32 to the scores of an
#: attention, which are some tens. With 255 quanta for both, all scores would be one number.
_WIDEST = 4096.0


class _Range(Protocol):
    range_value: tuple[Array, Array]


class _Ranges(Protocol):
    def items(self) -> Iterable[tuple[str, _Range]]: ...


class _Calibrator(Protocol):
    tensors_to_calibrate: set[str]

    def collect_data(self, data_reader: object) -> None: ...
    def compute_data(self) -> _Ranges: ...


def calibrate(method: str, model: str, samples: Sequence[Sample], out: Path, large: bool) -> frozenset[str]:
    """Find ranges, and write them for ``quantize_static``.

    ``quantize_static`` (ONNX Runtime 1.32) would hold all tensors of all samples at once. And it would give entropy as
    many bins as there are levels, which leaves it nothing to choose.

    Args:
        method: one of :data:`CALIBRATORS`.
        model: the ONNX file.
        samples: of its inputs.
        out: the file to write.
        large: whether weights lie in a file of their own.

    Returns:
        the names of the tensors that are too wide for bytes. They have no ranges, unless these are the smallest and the
        largest number.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator, save_tensors_data

    def make(kind: str, **options: object) -> _Calibrator:
        augmented = str(out.with_name(f"augmented-{kind}.onnx"))
        made: _Calibrator = create_calibrator(
            Path(model),
            None,
            augmented_model_path=augmented,
            calibrate_method=CalibrationMethod[kind],
            use_external_data_format=large,
            extra_options=options,
        )
        return made

    ends = make("MinMax")
    ends.collect_data(make_reader(samples))
    ranges = ends.compute_data()
    wide = frozenset(name for name, found in ranges.items() if _is_wide(*found.range_value))
    if method != "minmax":
        histograms = make(CALIBRATORS[method], **({"num_bins": _BINS} if method == "entropy" else {}))
        histograms.tensors_to_calibrate -= wide
        for first in range(0, len(samples), _AT_ONCE):
            histograms.collect_data(make_reader(samples[first : first + _AT_ONCE]))
        ranges = histograms.compute_data()
    save_tensors_data(ranges, out)
    return wide


def _is_wide(low: Array, high: Array) -> bool:
    """Whether a range is too wide. Overflow to infinity is not a range, but an infinite mask is."""
    least, most = (float(np.asarray(end).reshape(-1)[0]) for end in (low, high))
    return least < -_WIDEST or _WIDEST < most < math.inf


def make_reader(samples: Sequence[Sample]) -> object:
    """The samples, one after the other, as ONNX Runtime's quantiser reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples: Iterator[Sample] = iter(samples)

        def get_next(self) -> Sample | None:
            return next(self._samples, None)

    return Reader()
