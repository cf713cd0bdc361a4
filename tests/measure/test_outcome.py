from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilewright.measure.outcome import ROBUST_QUANTILE, robust_seconds


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30))
def test_the_robust_latency_is_numpys_quantile(repeats: list[float]) -> None:
    assert robust_seconds(tuple(repeats)) == np.quantile(repeats, ROBUST_QUANTILE)


def test_no_repeats_have_no_latency() -> None:
    assert math.isnan(robust_seconds(()))
