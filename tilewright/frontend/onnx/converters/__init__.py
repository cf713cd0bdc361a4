"""Converters of our own, for operators that TVM's importer lacks. Importing this package registers them."""

from tilewright.frontend.onnx.converters import recurrent

__all__ = ["recurrent"]
