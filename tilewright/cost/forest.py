"""Scores few programs with shallow trees, by NumPy.

A call of XGBoost takes a third of a millisecond before it scores the first program. In that time NumPy scores 250
programs with 100 trees of depth 3. A search calls its cost model hundreds of times, with a hundred programs each time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.trees import Trees

__all__ = ["Forest"]

#: The greatest depth of a tree. In deeper trees it is faster to visit only the nodes on each program's way.
_MOST_DEPTH = 3


class Forest:
    """Trees that are filled up to one depth, so that all programs walk down all trees in step.

    Args:
        trees: the trees.
        levels: for each depth the ``(2 ** depth, trees)`` nodes from left to right. The last level has leaves only.
    """

    def __init__(self, trees: Trees, levels: list[NDArray[np.intp]]) -> None:
        leaves, inner = levels[-1], np.concatenate([levels[-1][:0], *levels[:-1]])
        # Many nodes compare the same feature with the same threshold. The comparison of a node that was filled in does
        # not matter, because both its ways lead to the same leaf.
        questions = np.stack([trees.feature[inner], trees.threshold[inner]], axis=-1, dtype=np.float64)
        distinct, which = np.unique(questions.reshape(-1, 2), axis=0, return_inverse=True)
        self._which = which.reshape(inner.shape)
        self._used, self._feature = np.unique(distinct[:, 0].astype(np.intp), return_inverse=True)
        self._threshold = distinct[:, 1:].astype(np.float32)
        self._depth = len(levels) - 1
        self._values: NDArray[np.float32] = trees.threshold[leaves].T.ravel()
        self._tree = np.arange(0, leaves.size, len(leaves))[:, None]
        self._base = trees.base

    @classmethod
    def of(cls, trees: Trees) -> Forest | None:
        """The forest of ``trees``; None if a tree is deeper than 3."""
        levels = _fill_levels(trees)
        return None if levels is None else cls(trees, levels)

    def predict(self, table: NDArray[np.float32], margin: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """The ``(n,)`` scores of programs, equal to XGBoost's in every bit of their float32.

        Args:
            table: the ``(n, features)`` features of the programs, without nan.
            margin: the ``(n,)`` scores before the first tree; by default the base of the trees.
        """
        columns = np.ascontiguousarray(table[:, self._used].T, dtype=np.float32)
        right = (columns[self._feature] >= self._threshold).take(self._which, axis=0)
        # The first row holds the margins. The trees' values are added to it row by row, in XGBoost's order.
        scores = np.empty((len(self._tree) + 1, len(table)), dtype=np.float32)
        scores[0] = self._base if margin is None else margin
        self._values.take(self._tree + self._find_leaves(right), out=scores[1:], mode="clip")
        # NumPy sums rows one by one, but the numbers of a single column by halves.
        total: NDArray[np.float32] = scores.sum(axis=0) if len(table) > 1 else np.add.accumulate(scores)[-1]
        return total.astype(np.float64)

    def _find_leaves(self, right: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The ``(trees, n)`` places of the leaves at the end of each way, from ``(nodes, trees, n)`` right turns."""
        if self._depth == 0:
            return np.zeros(right.shape[1:], dtype=np.uint8)
        # Masks of bits: np.where takes ten times as long for bytes.
        turns = np.negative(right.view(np.uint8))
        bit = np.uint8(1)
        way: NDArray[np.uint8] = turns[(1 << self._depth - 1) - 1 :] & bit
        for level in reversed(range(self._depth - 1)):
            bit <<= np.uint8(1)
            here, left = turns[(1 << level) - 1 : (2 << level) - 1], way[0::2]
            way = left ^ ((left ^ (way[1::2] | bit)) & here)
        last: NDArray[np.uint8] = way[0]
        return last


def _fill_levels(trees: Trees) -> list[NDArray[np.intp]] | None:
    """The nodes of each depth; None if there are more than 3 depths below the root.

    A leaf above the last depth is its own child.
    """
    first = np.cumsum(trees.sizes) - trees.sizes
    start, own = np.repeat(first, trees.sizes), np.arange(len(trees.left))
    leaf = trees.left < 0
    left, right = (np.where(leaf, own, children + start) for children in (trees.left, trees.right))
    levels: list[NDArray[np.intp]] = [first[None].astype(np.intp)]
    while not leaf[levels[-1]].all():
        if len(levels) > _MOST_DEPTH:
            return None
        nodes = levels[-1]
        levels.append(np.stack([left[nodes], right[nodes]], axis=1).reshape(-1, nodes.shape[1]))
    return levels
