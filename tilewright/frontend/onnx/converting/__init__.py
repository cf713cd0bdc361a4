"""Converters of our own, one module a family of operators. Importing the package registers all of them."""

from tilewright.frontend.onnx.converting import (
    coordinates,
    moving,
    pooling,
    quantised,
    resizing,
    sampling,
    scattering,
    sliding,
    sorting,
    spectra,
)

__all__ = [
    "coordinates",
    "moving",
    "pooling",
    "quantised",
    "resizing",
    "sampling",
    "scattering",
    "sliding",
    "sorting",
    "spectra",
]
