"""The gradients of a dense layer's weights and bias: sums over all tokens.

That of the weights is the product of a transposed matrix and a matrix, which both have a row for each token.

``form`` describes the operator, ``expression`` writes it as plain loops, ``program`` writes the loops of a config, and
``space`` joins these to a design space.
"""

from tilewright.ops.token_product.expression import token_product
from tilewright.ops.token_product.form import KIND, TokenProduct
from tilewright.ops.token_product.space import TokenProductSpace, TokenProductTemplate

__all__ = ["KIND", "TokenProduct", "TokenProductSpace", "TokenProductTemplate", "token_product"]
