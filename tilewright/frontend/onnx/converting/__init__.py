"""Converters of our own, one module for each family of operators. Importing the package registers all of them."""

from tilewright.frontend.onnx.converting import (
    arithmetic,
    moving,
    nibbles,
    pooling,
    quantised,
    recurrent,
    refused,
    regions,
    resizing,
    sampling,
    scattering,
    sliding,
    sorting,
)

__all__ = [
    "arithmetic",
    "moving",
    "nibbles",
    "pooling",
    "quantised",
    "recurrent",
    "refused",
    "regions",
    "resizing",
    "sampling",
    "scattering",
    "sliding",
    "sorting",
]
