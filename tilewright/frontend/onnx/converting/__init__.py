"""Converters of our own, one module a family of operators. Importing the package registers all of them."""

from tilewright.frontend.onnx.converting import (
    moving,
    pooling,
    quantised,
    regions,
    resizing,
    sampling,
    scattering,
    sliding,
    sorting,
)

__all__ = ["moving", "pooling", "quantised", "regions", "resizing", "sampling", "scattering", "sliding", "sorting"]
