"""Convolutions, dense layers and products of matrices: one family of expressions, which one template schedules.

``expression`` writes them over blocked data and packed weights. ``form`` reads the axes of such a function, ``nest``
has its programs in closed form, ``program`` makes one with TVM, and ``space`` joins these to a design space.
"""

from tilewright.ops.contraction.expression import (
    Place,
    Product,
    batch_matmul,
    conv2d,
    dense,
    depthwise_conv2d,
    grouped_conv2d,
)
from tilewright.ops.contraction.space import ContractionSpace, ContractionTemplate

__all__ = [
    "ContractionSpace",
    "ContractionTemplate",
    "Place",
    "Product",
    "batch_matmul",
    "conv2d",
    "dense",
    "depthwise_conv2d",
    "grouped_conv2d",
]
