"""Layer norms in training, and their gradients. Each goes through its rows once.

The norm also gives the mean of each row and the inverse of its standard deviation, which its gradient needs.

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
