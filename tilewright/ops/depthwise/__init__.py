"""Depthwise convolutions: rows of sums in registers, and no copy of the padded image.

``form`` reads one out of the expression of :mod:`tilewright.ops.contraction`, ``program`` writes its loops, and
``space`` is the design space.
"""

from tilewright.ops.depthwise.space import DepthwiseSpace, DepthwiseTemplate

__all__ = ["DepthwiseSpace", "DepthwiseTemplate"]
