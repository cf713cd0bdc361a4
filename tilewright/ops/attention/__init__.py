"""Attention in one function: scores, softmax and the products with values, block by block in a core's own cache.

``form`` describes the operator; ``program``, ``block`` and ``elements`` write its loops; ``space`` is its design space.
"""

from tilewright.ops.attention.expression import attention
from tilewright.ops.attention.form import Attention, Dims, Place
from tilewright.ops.attention.space import AttentionSpace, AttentionTemplate

__all__ = ["Attention", "AttentionSpace", "AttentionTemplate", "Dims", "Place", "attention"]
