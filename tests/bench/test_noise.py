"""The methods that ``bench.noise`` compares, on kernels that turn the clock themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from bench.noise import EQUAL, METHODS, RATIOS, Choice, Kernel, by_race, means, one_race, spread, summary, text, wilson
from tilewright.measure.disturbance import Watch
from tilewright.measure.timing import Timer


class Clock:
    """Time passes in calls of kernels only; a share of its slices of 10 ms is disturbed, which a watch can see."""

    def __init__(self, share: float) -> None:
        self.now = 0.0
        self.switches = 0
        self._rng = np.random.default_rng(0)
        self._slow = self._rng.random(100_000) < share

    def kernel(self, latency: float) -> Callable[[], None]:
        def call() -> None:
            disturbed = self._slow[int(self.now / 0.01) % len(self._slow)]
            self.switches += bool(disturbed)
            self.now += latency * (2.0 if disturbed else 1.0)

        return call


def race_day(share: float, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Kernel], Timer]:
    clock = Clock(share)
    monkeypatch.setattr("tilewright.measure.timing.time.perf_counter", lambda: clock.now)
    timer = Timer(Watch((), lambda: 1.0, lambda: clock.switches))
    return [Kernel(clock.kernel(4e-4 * ratio), (), ratio) for ratio in RATIOS], timer


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_true_best_wins_by_every_method_but_means(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, timer = race_day(share, monkeypatch)
    rng = np.random.default_rng(1)
    races = [one_race(kernels, timer, rng) for _ in range(12)]
    result = summary(kernels, races)
    assert set(result) == {*METHODS, *EQUAL}
    for name in METHODS:
        assert result[name]["won"]["mean"] >= 0.75, name
        assert result[name]["lost"]["mean"] <= 0.01
    for mean, method in EQUAL.items():
        assert (result[mean]["won"]["mean"] == 1.0) == (share == 0.0)
        assert result[mean]["seconds"] == pytest.approx(result[method]["seconds"], rel=0.1)  # of equal cost


def test_a_long_race_tells_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, timer = race_day(0.0, monkeypatch)
    blocks = by_race(kernels, timer, 9)
    assert [len(times) for times in blocks] == [9] * 8
    assert [times[0] / blocks[0][0] for times in blocks] == pytest.approx(RATIOS)


def test_means_give_each_kernel_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, _ = race_day(0.0, monkeypatch)
    assert means(kernels[::-1], 0.1) == 7
    assert means(kernels, 0.0) == 0


def test_the_kernels_are_close_but_not_too_close() -> None:
    truths = [1.0, 1.01, *np.linspace(1.03, 1.14, 20).tolist(), 1.3]
    chosen = [truths[index] for index in spread(truths[::-1])]
    assert len(chosen) == 8
    chosen = sorted(truths[::-1][index] for index in spread(truths[::-1]))
    assert chosen[0] == 1.0
    assert chosen[1] == pytest.approx(1.03)
    assert chosen[-1] == pytest.approx(1.14)
    assert spread([2.0, 1.0, 1.05]) == [1, 2]


@pytest.mark.parametrize(("won", "races"), [(0, 5), (3, 5), (5, 5), (190, 200)])
def test_the_interval_of_a_share(won: int, races: int) -> None:
    low, high = wilson(won, races)
    assert -1e-9 <= low <= won / races <= high <= 1 + 1e-9
    assert high - low < 2.0 / math.sqrt(races)


def test_the_table_names_every_method() -> None:
    kernels = [Kernel(lambda: None, (), truth) for truth in (1.05, 1.0)]
    choice = {name: Choice(1, 0.5) for name in (*METHODS, *EQUAL)}
    part = {"kernels": "synthetic", "share": 0.3, "ratios": [1.05, 1.0], "methods": summary(kernels, [choice] * 5)}
    about = {"races": 5, "machine": "m", "threads": 2, "date": "2026-11-23", "wall_seconds": 1.0}
    said = text({"parts": [part], **about})
    assert all(name in said for name in choice)
    assert "100 (57 to 100)" in said
    assert "0.00 (0.00 to 0.00)" in said
