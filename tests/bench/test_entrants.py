"""What ``bench.kernels`` races, by itself."""

from __future__ import annotations

from bench._entrants import OwnProduct


def test_our_own_product_is_timed_run_by_run() -> None:
    seconds = OwnProduct(2, 1e7).time((), 3)
    assert len(seconds) == 3
    assert min(seconds) > 0
