"""The gradient of the data of a depthwise convolution with a stride, in one pass over the result.

``expression`` writes it over blocked images, ``form`` reads one out of a function, ``program`` writes its loops, and
``space`` is the design space. A stride of 1 needs none of this: then the gradient is a depthwise convolution.
"""

from tilewright.ops.depthwise_gradient.expression import (
    DATA_GRADIENT,
    KIND,
    DataGradient,
    data_gradient,
    plain_data_gradient,
)
from tilewright.ops.depthwise_gradient.space import DepthwiseGradientSpace, DepthwiseGradientTemplate

__all__ = [
    "DATA_GRADIENT",
    "KIND",
    "DataGradient",
    "DepthwiseGradientSpace",
    "DepthwiseGradientTemplate",
    "data_gradient",
    "plain_data_gradient",
]
