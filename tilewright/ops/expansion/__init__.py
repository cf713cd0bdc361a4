"""A 1x1 convolution and the depthwise one that reads its result, as one function.

The 1x1 convolution mostly expands the channels, so the map between both is the largest one of its block of a network.
"""

from tilewright.ops.expansion.form import KIND
from tilewright.ops.expansion.space import ExpansionSpace, ExpansionTemplate

__all__ = ["KIND", "ExpansionSpace", "ExpansionTemplate"]
