"""Weights that are kept in half as many bytes are the same numbers again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilewright.executable.narrow import narrow_array, widen_array


@given(st.lists(st.integers(0, 2**16 - 1), min_size=256, max_size=300))
def test_every_float16_and_every_bfloat16_is_kept(bits: list[int]) -> None:
    half = np.asarray(bits, np.uint16).view(np.float16)
    brain = (np.asarray(bits, np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(all="ignore"):
        wide = half.astype(np.float32)
    for array in (wide, brain):
        kept, kind = narrow_array(array)
        if kind:
            assert kept.nbytes == array.nbytes // 2
            np.testing.assert_array_equal(widen_array(kept, kind).view(np.uint32), array.view(np.uint32))
        else:  # the bits of a signalling NaN change when it is converted
            assert np.isnan(array).any()


@pytest.mark.parametrize(
    "array",
    [
        np.full(10, 0.5, np.float32),  # small
        np.full(1000, 0.5, np.float64),
        np.full(1000, 0.1, np.float32),
        np.append(np.full(1 << 21, 0.5, np.float32), np.float32(0.1)),  # only the last number is in the way
        np.append(np.full(1000, 0.333251953125, np.float32), np.float32(1e6)),  # beyond float16
        np.ones(1000, np.int32),
    ],
)
def test_other_weights_stay_as_they_are(array: NDArray[np.generic]) -> None:
    kept, kind = narrow_array(array)
    assert kind == ""
    assert kept is array


def test_a_weight_that_was_kept_otherwise_is_refused() -> None:
    with pytest.raises(ValueError, match="kept as 'float16', but it is float32"):
        widen_array(np.zeros(4, np.float32), "float16")
    with pytest.raises(ValueError, match="kept as 'int8'"):
        widen_array(np.zeros(4, np.int8), "int8")


def test_weights_of_several_axes() -> None:
    array = np.asfortranarray(np.arange(1024, dtype=np.float32).reshape(32, 32)) + np.float32(0.5)
    kept, kind = narrow_array(array)
    assert kind == "float16"
    np.testing.assert_array_equal(widen_array(kept, kind), array)
