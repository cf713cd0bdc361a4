"""Layer norms in training: the norm with the numbers that its gradient needs, and the gradient, in one pass each.

``form`` describes both, ``expression`` writes them as plain loops, ``program`` writes the loops of a config, and
``space`` joins these to a design space.
"""

from tilewright.ops.norms.expression import norm_gradient, training_norm
from tilewright.ops.norms.form import GRADIENT, NORM, NormGradient, TrainingNorm
from tilewright.ops.norms.space import NormGradientTemplate, NormSpace, TrainingNormTemplate

__all__ = [
    "GRADIENT",
    "NORM",
    "NormGradient",
    "NormGradientTemplate",
    "NormSpace",
    "TrainingNorm",
    "TrainingNormTemplate",
    "norm_gradient",
    "training_norm",
]
