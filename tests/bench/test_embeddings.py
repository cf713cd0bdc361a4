"""How ``bench.embeddings`` averages tokens, and compares what comes of it."""

from __future__ import annotations

import numpy as np
import pytest

from bench.embeddings import compare_embeddings, pool


def test_the_mask_leaves_tokens_out() -> None:
    tokens = np.asarray([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]], np.float32)
    assert pool(tokens, np.asarray([[1, 1, 0]])).tolist() == [2.0, 4.0]


def test_cosines_of_embeddings() -> None:
    wanted = np.asarray([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    found = np.asarray([[2.0, 0.0], [1.0, 1.0], [1.0, 0.01]])
    result = compare_embeddings(found, wanted, 0.99)
    assert result["lowest"] == pytest.approx(0.5**0.5)
    assert result["median"] == pytest.approx(1 / np.hypot(1.0, 0.01))
    assert result["reached"] == pytest.approx(2 / 3)
