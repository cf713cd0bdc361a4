"""Sums over the batch and all pixels of an image that the same function computes, such as the gradient of a norm.

The sums are the gradient of a convolution's weights.

``form`` takes such a function apart, and ``space`` is the design space: that of the sums alone. Each chunk of pixels is
computed just before it is summed.
"""

from tilewright.ops.computed_sums.form import KIND, make_mark
from tilewright.ops.computed_sums.space import ComputedSumsSpace, ComputedSumsTemplate

__all__ = ["KIND", "ComputedSumsSpace", "ComputedSumsTemplate", "make_mark"]
