"""The simulated loops of ``bench.scaling``."""

from __future__ import annotations

import pytest

from bench.scaling import Costs, predict, simulate

FREE, COSTLY = Costs(0.0, 0.0, 0.0), Costs(line=1e-7, part=1e-8, look=2e-8)


@pytest.mark.parametrize("threads", [1, 2, 8, 64])
def test_without_costs_a_loop_takes_its_share(threads: int) -> None:
    assert simulate(1e-3, threads, FREE).seconds == pytest.approx(1e-3 / threads)
    assert simulate(1e-3, threads, FREE).serial == 0.0


def test_costs_matter_in_short_loops() -> None:
    short, long = (simulate(work, 64, COSTLY) for work in (1e-5, 1e-1))
    assert short.seconds > 1e-5 / 8
    assert long.seconds == pytest.approx(1e-1 / 64, rel=0.01)
    assert short.serial == long.serial  # it does not depend on the work


def test_a_kernel_that_threads_do_not_make_faster_runs_on_one() -> None:
    total, serial = predict([(1e-3, 0.5e-3), (1e-4, 1e-4)], FREE, 10)
    assert total == pytest.approx(1e-4 + 1e-4)
    assert serial == 0.0
