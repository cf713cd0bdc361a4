"""Attention in one function: scores, softmax and the products with values, block by block in a core's own cache.

``form`` describes the operator; ``program``, ``block`` and ``elements`` write its loops; ``space`` is its design space.
Attention of bytes, in quantised networks, has modules of the same names with ``byte_`` before them.
"""

from tilewright.ops.attention.byte_expression import byte_attention
from tilewright.ops.attention.byte_form import ByteAttention
from tilewright.ops.attention.byte_space import ByteAttentionSpace, ByteAttentionTemplate
from tilewright.ops.attention.expression import attention
from tilewright.ops.attention.form import Attention, Dims, Place
from tilewright.ops.attention.space import AttentionSpace, AttentionTemplate

__all__ = [
    "Attention",
    "AttentionSpace",
    "AttentionTemplate",
    "ByteAttention",
    "ByteAttentionSpace",
    "ByteAttentionTemplate",
    "Dims",
    "Place",
    "attention",
    "byte_attention",
]
