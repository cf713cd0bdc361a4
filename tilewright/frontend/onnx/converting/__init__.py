"""Converters of our own, one module a family of operators. Importing the package registers all of them."""

from tilewright.frontend.onnx.converting import arithmetic

__all__ = ["arithmetic"]
