"""The gradient of an attention in one function: a block of queries after the other, whose scores stay in the cache.

``form`` describes the operator; ``program`` and ``block`` write its loops; ``space`` is its design space.
"""

from tilewright.ops.attention_gradient.expression import attention_gradient
from tilewright.ops.attention_gradient.form import AttentionGradient
from tilewright.ops.attention_gradient.space import AttentionGradientSpace, AttentionGradientTemplate

__all__ = ["AttentionGradient", "AttentionGradientSpace", "AttentionGradientTemplate", "attention_gradient"]
