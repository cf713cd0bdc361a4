"""Cold caches: what empties them, and that it is done."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.measure.spaces import Deed, FaultySpace, config, make_faulty, make_task
from tilewright.measure import cold
from tilewright.measure.cold import flush_bytes, kernel_flush, streamed_bytes, thread_flush
from tilewright.measure.pool import LocalPool
from tilewright.processor import cache_sizes
from tilewright.target import Target


@given(st.integers(1 << 15, 1 << 23), st.integers(1 << 20, 1 << 30), st.integers(1, 128))
def test_more_is_touched_than_all_caches_hold(l2: int, l3: int, cores: int) -> None:
    touched = flush_bytes(l2, l3, cores)
    assert touched <= 256 << 20
    assert touched > l3 + cores * l2 or touched == 256 << 20


def test_a_kernel_empties_them() -> None:
    flush = kernel_flush(replace(Target.parse(), l2=1 << 16, l3=1 << 20))
    flush()
    flush()


def test_threads_touch_all_of_their_memory_each_on_a_core_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[tuple[frozenset[int], int]] = []
    touch = cold._touch

    def watched(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
        touch(array)
        touched.append((frozenset(os.sched_getaffinity(0)), array.nbytes))
        assert (array == -1.0).all()

    before = os.sched_getaffinity(0)
    monkeypatch.setattr(cold, "_touch", watched)
    thread_flush()()
    assert sorted(core for cores, _ in touched for core in cores) == sorted(before)
    assert os.sched_getaffinity(0) == before  # this thread runs where it did
    assert sum(size for _, size in touched) > min(cache_sizes()[2], 128 << 20)


def test_a_cold_target_is_another_target() -> None:
    warm = Target.parse()
    assert replace(warm, caches="cold").key == f"{warm.key}-cold" == Target.parse("native:cold").key
    assert Target.parse("native:shared").key == f"{warm.key}-shared"
    assert Target.parse("native:streamed").key == f"{warm.key}-streamed"
    assert replace(warm, caches="warm").key == warm.key


def test_weights_come_from_behind_the_caches_that_they_do_not_fit() -> None:
    warm = replace(Target.parse(), cores=2, l2=1 << 20, l3=1 << 25)
    assert warm.with_weights(1 << 21) is warm
    some, large = warm.with_weights((1 << 21) + 1), warm.with_weights((1 << 25) + 1)
    assert (some, large) == (replace(warm, caches="shared"), replace(warm, caches="streamed"))
    assert warm.with_weights(1 << 25) == some
    assert large.with_weights(0) is large
    assert some.with_weights(1 << 26) is some
    cold = replace(warm, caches="cold")
    assert cold.with_weights(1 << 26) is cold
    assert streamed_bytes(warm) == streamed_bytes(cold) == 0
    assert streamed_bytes(some) == 1 << 23  # four times what the second caches hold
    assert streamed_bytes(replace(some, l3=1 << 22)) == 3 << 20  # of which the last cache holds all
    assert streamed_bytes(large) == flush_bytes(warm.l2, warm.l3, warm.cores)


def test_without_a_last_cache_weights_come_from_memory() -> None:
    warm = replace(Target.parse(), cores=4, l2=1 << 20, l3=1 << 20)
    assert warm.with_weights(1 << 20) is warm
    assert warm.with_weights((1 << 20) + 1).caches == "streamed"


def test_candidates_of_a_cold_target_are_timed_and_recorded_as_such() -> None:
    target = Target.parse("native:cold")
    space = FaultySpace(make_task())
    configs = np.asarray([config(Deed.FAST, which) for which in range(2)], dtype=np.int32)
    with LocalPool(target, workers=1, factory=make_faulty) as pool:
        measured = pool.measure(space, configs, float("inf"), time.monotonic() + 120)
        measured += pool.race(space, configs, time.monotonic() + 120)
    assert [m.ok for m in measured] == [True] * 4
    assert {m.target for m in measured} == {target.key}
