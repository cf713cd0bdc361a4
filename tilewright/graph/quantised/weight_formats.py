"""The format of a contraction's weights that suits the target's instruction for products of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.contraction.dot_products import PAIR, QUAD, Operands, pairs_fit

if TYPE_CHECKING:
    from tilewright.graph.rewriter import Rewriter
    from tilewright.graph.weights import Recipe

__all__ = ["choose_format", "to_pairs"]

#: Rows or pixels from which weights in pairs are faster: fewer do not make up for twice as many bytes of weights.
_PAIR_ROWS = 4


def choose_format(walk: Rewriter, recipe: Recipe, rows: int) -> tuple[Recipe, Operands]:
    """The weights in the format that suits the target, and what is known of data and weights.

    Args:
        walk: the rewriter. Only with its ``pairs`` the format changes, and with its ``signed`` data are shifted.
        recipe: weights of int8 in quads: ``(..., quads, x, 4)``.
        rows: rows or pixels that are multiplied with each weight.

    Returns:
        The same recipe, or one of int16 in pairs: ``(..., 2 * quads, x, 2)``; and what is known of the operands:
        ``shifted``, ``fitting`` (:func:`pairs_fit`), or ``any``. On targets with an instruction for quads it is not
        asked whether they fit.
    """
    if not walk.pairs:
        return recipe, "shifted" if walk.signed else "any"
    quads = recipe.apply({**walk.arrays, **walk.made})
    if pairs_fit(quads):
        return recipe, "fitting"
    return (recipe if rows < _PAIR_ROWS else walk.make_weight(to_pairs(quads))), "any"


def to_pairs(quads: NDArray[np.generic]) -> NDArray[np.int16]:
    """Weights in pairs of int16: ``(..., q, x, 4)`` --> ``(..., 2 * q, x, 2)``."""
    *lead, count, x, _ = quads.shape
    halves = quads.reshape(*lead, count, x, QUAD // PAIR, PAIR).swapaxes(-3, -2)
    return np.ascontiguousarray(halves.reshape(*lead, count * QUAD // PAIR, x, PAIR).astype(np.int16))
