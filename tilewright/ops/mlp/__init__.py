"""An MLP: two dense layers with an activation between them, computed by one function.

Nothing but the second layer reads the rows between both layers, the *hidden* rows. Each layer of a transformer has an
MLP, and its hidden rows are the widest of the layer.
"""

from tilewright.ops.mlp.form import KIND
from tilewright.ops.mlp.space import MlpSpace, MlpTemplate

__all__ = ["KIND", "MlpSpace", "MlpTemplate"]
