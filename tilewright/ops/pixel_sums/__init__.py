"""Sums over the batch and all pixels, or over all tokens: gradients of weights, and statistics of channels.

``weight_gradient`` and ``statistics`` write them over blocked images, and ``token_sums`` over matrices with a row for
each token. ``form`` reads the axes of such a function, ``program`` makes a program with TVM, and ``space`` joins these
to a design space.
"""

from tilewright.ops.pixel_sums.form import KIND
from tilewright.ops.pixel_sums.space import PixelSumsSpace, PixelSumsTemplate
from tilewright.ops.pixel_sums.statistics import (
    STATISTICS,
    Statistics,
    channel_statistics,
    channel_sum,
    plain_statistics,
)
from tilewright.ops.pixel_sums.token_sums import (
    NORM_SUMS,
    TOKEN_SUM,
    is_token_sum,
    norm_sums,
    token_sum,
)
from tilewright.ops.pixel_sums.weight_gradient import (
    WEIGHT_GRADIENT,
    WeightGradient,
    depthwise_gradient,
    plain_weight_gradient,
    weight_gradient,
)

__all__ = [
    "KIND",
    "NORM_SUMS",
    "STATISTICS",
    "TOKEN_SUM",
    "WEIGHT_GRADIENT",
    "PixelSumsSpace",
    "PixelSumsTemplate",
    "Statistics",
    "WeightGradient",
    "channel_statistics",
    "channel_sum",
    "depthwise_gradient",
    "is_token_sum",
    "norm_sums",
    "plain_statistics",
    "plain_weight_gradient",
    "token_sum",
    "weight_gradient",
]
