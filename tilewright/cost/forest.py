"""Shallow trees, evaluated by NumPy where programs are few.

A call of XGBoost takes a third of a millisecond before it looks at a program, in which NumPy walks 100 trees of depth 3
for 250 programs. A search asks its cost model hundreds of times in a row, for a hundred programs each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Forest"]

#: In deeper trees it pays to look at the nodes on the way only.
_MOST_DEPTH = 3


class Forest:
    """Trees filled up to one depth, so that all programs walk down all trees in step.

    Args:
        arrays: the trees, as :func:`tilewright.cost.trees.pack` gives them.
        levels: for each depth ``(2 ** depth, trees)`` the nodes there from left to right, all leaves at the last.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], levels: list[NDArray[np.intp]]) -> None:
        leaves, inner = levels[-1], np.concatenate([levels[-1][:0], *levels[:-1]])
        # Many nodes ask the same question. What a node asks that was filled in does not matter: its ways lead to
        # the same leaf.
        questions = np.stack([arrays["feature"][inner], arrays["threshold"][inner]], axis=-1, dtype=np.float64)
        distinct, which = np.unique(questions.reshape(-1, 2), axis=0, return_inverse=True)
        self._which = which.reshape(inner.shape)
        self._used, self._feature = np.unique(distinct[:, 0].astype(np.intp), return_inverse=True)
        self._threshold = distinct[:, 1:].astype(np.float32)
        self._depth = len(levels) - 1
        self._values: NDArray[np.float32] = arrays["threshold"][leaves].T.ravel()
        self._tree = np.arange(0, leaves.size, len(leaves))[:, None]
        self._base = arrays["base"]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Forest | None:
        """The trees of ``arrays``; None where one is deeper than 3, as it then pays to look at fewer nodes."""
        levels = _levels(arrays)
        return None if levels is None else cls(arrays, levels)

    def predict(self, table: NDArray[np.float32], margin: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """``(n,)`` the scores that XGBoost gives ``(n, features)`` programs without a nan, to its float32's last bit.

        Args:
            table: the programs' features.
            margin: ``(n,)`` what the trees add to, instead of the base that they were trained with.
        """
        columns = np.ascontiguousarray(table[:, self._used].T, dtype=np.float32)
        right = (columns[self._feature] >= self._threshold).take(self._which, axis=0)
        # The first row is what the others are added to one by one, in the order in which XGBoost adds them.
        scores = np.empty((len(self._tree) + 1, len(table)), dtype=np.float32)
        scores[0] = self._base if margin is None else margin
        self._values.take(self._tree + self._way(right), out=scores[1:], mode="clip")
        # NumPy adds row by row as well, but the numbers of one column by halves.
        total: NDArray[np.float32] = scores.sum(axis=0) if len(table) > 1 else np.add.accumulate(scores)[-1]
        return total.astype(np.float64)

    def _way(self, right: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """``(trees, n)`` the place of the leaf each way ends at, from ``(nodes, trees, n)`` turns to the right."""
        if self._depth == 0:
            return np.zeros(right.shape[1:], dtype=np.uint8)
        # Masks instead of np.where, which takes ten times as long for bytes.
        turns = np.negative(right.view(np.uint8))
        bit = np.uint8(1)
        way: NDArray[np.uint8] = turns[(1 << self._depth - 1) - 1 :] & bit
        for level in reversed(range(self._depth - 1)):
            bit <<= np.uint8(1)
            here, left = turns[(1 << level) - 1 : (2 << level) - 1], way[0::2]
            way = left ^ ((left ^ (way[1::2] | bit)) & here)
        last: NDArray[np.uint8] = way[0]
        return last


def _levels(arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[np.intp]] | None:
    """The nodes of each depth, filled up with leaves, which have themselves as children; None: more than 3."""
    first = np.cumsum(arrays["sizes"]) - arrays["sizes"]
    start, own = np.repeat(first, arrays["sizes"]), np.arange(len(arrays["left"]))
    leaf = arrays["left"] < 0
    left, right = (np.where(leaf, own, arrays[side] + start) for side in ("left", "right"))
    levels: list[NDArray[np.intp]] = [first[None].astype(np.intp)]
    while not leaf[levels[-1]].all():
        if len(levels) > _MOST_DEPTH:
            return None
        nodes = levels[-1]
        levels.append(np.stack([left[nodes], right[nodes]], axis=1).reshape(-1, nodes.shape[1]))
    return levels
