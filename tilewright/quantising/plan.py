"""What is asked of the quantiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tilewright.errors import TilewrightError
from tilewright.frontend.shapes import ShapeRequest
from tilewright.tensor import Array
from tilewright.wording import did_you_mean

__all__ = ["CALIBRATIONS", "QuantisingPlan"]

#: The ways in which ONNX Runtime's quantiser finds the range of each tensor, as users name them.
CALIBRATIONS = ("minmax", "entropy", "percentile")


@dataclass(frozen=True, eq=False)
class QuantisingPlan:
    """How a model is quantised. Can be pickled.

    Attributes:
        model: the ONNX file.
        out: the file of the quantised model.
        samples: arrays by the names of inputs, one mapping for each file: samples, or stacks of samples. Static
            quantising calibrates with them. An empty name stands for a model's only input.
        random: the number of random samples instead; 0: none.
        calibration: one of :data:`CALIBRATIONS`.
        dynamic: whether scales of activations are computed at run time, so that nothing is calibrated.
        per_channel: whether each channel of a weight has a scale of its own.
        symmetric: whether activations are int8 around 0 instead of uint8 with a zero point.
        reduce_range: whether weights have 7 bits. No two products exceed int16 then, so that processors without VNNI
            have a faster instruction for them.
        exclude: the names of nodes, patterns of names, or operators such as ``Softmax``, that stay in floating point.
        only: operators such as ``MatMul``; all others stay in floating point. Empty: all that the quantiser takes.
        shapes: the shapes of random samples, if the model leaves dimensions open; None: it leaves none open.
        seed: of random samples.

    Raises:
        TilewrightError: the calibration is not known, or options exclude each other.
    """

    model: Path
    out: Path
    samples: tuple[Mapping[str, Array], ...] = ()
    random: int = 0
    calibration: str = "minmax"
    dynamic: bool = False
    per_channel: bool = True
    symmetric: bool = False
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    shapes: ShapeRequest | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.calibration not in CALIBRATIONS:
            raise TilewrightError(
                f"--method is {', '.join(CALIBRATIONS[:-1])} or {CALIBRATIONS[-1]}, but this is {self.calibration!r}"
                + (did_you_mean(self.calibration, CALIBRATIONS) or "; leave it out for minmax")
            )
        if self.dynamic and (self.symmetric or self.calibration != "minmax"):
            raise TilewrightError(
                "--dynamic computes scales at run time, so that --method and --symmetric say nothing; leave them out, "
                "or leave out --dynamic"
            )
        if self.random and self.samples:
            raise TilewrightError("samples are real or random, but --calibrate and --random were given; leave one out")
