"""3x3 convolutions by Winograd's minimal filtering, in three functions or in one, and gradients of their weights.

``expression`` writes both, and ``kernel_gradient`` the gradients. ``staged_space`` schedules the transforms of the
three functions and of the gradients, whose products are a contraction or sums over pixels; ``fused_space`` schedules
the one function.
"""

from tilewright.ops.winograd.expression import (
    Tiling,
    data_transform,
    fused,
    inverse_transform,
    products,
    transform_weight,
    weight_matrix,
)
from tilewright.ops.winograd.fused_space import FusedWinogradSpace, FusedWinogradTemplate
from tilewright.ops.winograd.kernel_gradient import gather_kernels, spread_gradient, sum_tiles
from tilewright.ops.winograd.staged_space import WinogradTransformSpace, WinogradTransformTemplate

__all__ = [
    "FusedWinogradSpace",
    "FusedWinogradTemplate",
    "Tiling",
    "WinogradTransformSpace",
    "WinogradTransformTemplate",
    "data_transform",
    "fused",
    "gather_kernels",
    "inverse_transform",
    "products",
    "spread_gradient",
    "sum_tiles",
    "transform_weight",
    "weight_matrix",
]
