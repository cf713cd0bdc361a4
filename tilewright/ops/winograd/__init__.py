"""3x3 convolutions by Winograd's minimal filtering: in three functions, or in one.

``expression`` writes both. ``staged_space`` schedules the transforms of the three functions, whose products are a
contraction; ``fused_space`` schedules the one function.
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
from tilewright.ops.winograd.staged_space import WinogradTransformSpace, WinogradTransformTemplate

__all__ = [
    "FusedWinogradSpace",
    "FusedWinogradTemplate",
    "Tiling",
    "WinogradTransformSpace",
    "WinogradTransformTemplate",
    "data_transform",
    "fused",
    "inverse_transform",
    "products",
    "transform_weight",
    "weight_matrix",
]
