"""3x3 convolutions by Winograd's minimal filtering, in three functions or in one, and gradients of their weights.

``expression`` writes both, ``byte_expression`` the three functions for bytes, and ``kernel_gradient`` the gradients.
``staged_space`` schedules the transforms of the three functions and of the gradients, whose products are a contraction
or sums over pixels; ``fused_space`` schedules the one function.
"""

from tilewright.ops.winograd.byte_expression import (
    MOST_INPUTS,
    byte_data_transform,
    byte_inverse_transform,
    byte_products,
    transform_byte_weight,
)
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
    "MOST_INPUTS",
    "FusedWinogradSpace",
    "FusedWinogradTemplate",
    "Tiling",
    "WinogradTransformSpace",
    "WinogradTransformTemplate",
    "byte_data_transform",
    "byte_inverse_transform",
    "byte_products",
    "data_transform",
    "fused",
    "gather_kernels",
    "inverse_transform",
    "products",
    "spread_gradient",
    "sum_tiles",
    "transform_byte_weight",
    "transform_weight",
    "weight_matrix",
]
