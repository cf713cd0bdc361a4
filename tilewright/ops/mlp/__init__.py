"""Two dense layers, of which the second alone reads what the first one's activation gives, as one function.

Transformers have such a pair in each layer. The rows between both, the *hidden* ones, are the widest of the layer.
"""

from tilewright.ops.mlp.form import KIND
from tilewright.ops.mlp.space import MlpSpace, MlpTemplate

__all__ = ["KIND", "MlpSpace", "MlpTemplate"]
