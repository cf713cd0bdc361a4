from __future__ import annotations

import numpy as np

from tilewright.sample.top import TopK


def test_the_highest_scores_come_first_and_ties_keep_their_order() -> None:
    configs = np.arange(5, dtype=np.int32)[:, None]
    picked = TopK().pick(configs, np.asarray([1.0, 3.0, 1.0, 5.0, 1.0]), 4)
    assert picked.ravel().tolist() == [3, 1, 0, 2]


def test_equal_rows_are_picked_once() -> None:
    configs = np.asarray([[1], [1], [2]], dtype=np.int32)
    assert TopK().pick(configs, np.asarray([3.0, 2.0, 1.0]), 3).ravel().tolist() == [1, 2]
