"""Racing: by turns, alone, on the same inputs; who fails leaves the others alone."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tilewright.errors import MeasureError
from tilewright.measure.compare import compare, difference, latency
from tilewright.measure.peer_process import PeerProcess
from tilewright.measure.peers import Entrant, Peer, race
from tilewright.tensor import Array, TensorSpec


class Sleeper:
    """Doubles its input in so many seconds, and writes down when it ran."""

    inputs = (TensorSpec("x", (2, 3), "float32"),)

    def __init__(self, seconds: float, diary: Path, runs_left: int = 10**9) -> None:
        self.seconds, self.diary, self.runs_left = seconds, diary, runs_left

    def __call__(self, *arrays: Array) -> list[Array]:
        return [2 * arrays[0]]

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        if self.runs_left < runs:
            os._exit(7)
        begin = time.monotonic()
        with self.diary.open("a") as file:
            file.write(f"{self.seconds} {begin} {begin + runs * self.seconds}\n")
        for _ in range(runs):
            time.sleep(self.seconds)
        return [self.seconds] * runs

    def scaled(self, arrays: Sequence[Array], factor: int) -> float:
        return float(arrays[0][0, 0] * factor)


class Dying(Sleeper):
    """Ends its process in its third block."""

    calls = 0

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        self.calls += runs > 2  # the warm-up is of two runs, the estimate of single ones
        if self.calls == 3:
            os._exit(7)
        return super().time(arrays, runs)


def broken(_diary: Path) -> Sleeper:
    raise RuntimeError("no such runtime\nand a traceback")


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


def test_turns_never_overlap_and_give_the_ratio(diary: Path) -> None:
    entrants = [Entrant("fast", Sleeper, (0.004, diary)), Entrant("slow", Sleeper, (0.008, diary))]
    fast, slow = race(entrants, blocks=6, block_seconds=0.05, threads=1)
    assert sorted(fast.blocks) == sorted(slow.blocks) == list(range(6))
    assert {len(block) for block in fast.blocks.values()} == {12}
    turns = sorted(tuple(map(float, line.split()))[1:] for line in diary.read_text().splitlines())
    assert all(left[1] <= right[0] for left, right in pairwise(turns))
    np.testing.assert_array_equal(fast.outputs[0], slow.outputs[0])
    result = compare(fast, slow)
    assert result["ratio"] == pytest.approx(0.5)
    assert result["ratio_low"] <= result["ratio"] <= result["ratio_high"]


def test_thousands_of_runs_are_compared_by_few_of_their_quantiles() -> None:
    rng = np.random.default_rng(0)
    runs = [(1.0 + rng.exponential(0.1, 5000)).tolist() for _ in range(8)]
    ours, theirs = Peer("ours", dict(enumerate(runs[:4]))), Peer("theirs", dict(enumerate(runs[4:])))
    result = compare(ours, theirs)
    assert result["ratio"] == pytest.approx(np.median(runs[:4]) / np.median(runs[4:]), rel=1e-4)
    assert result["ratio_low"] < result["ratio"] < result["ratio_high"]


def test_turns_go_on_as_long_as_they_are_asked_for(diary: Path) -> None:
    entrants = [Entrant("one", Sleeper, (0.004, diary)), Entrant("two", Sleeper, (0.004, diary))]
    one, two = race(entrants, 2, 0.01, 1, more=lambda peers: len(peers[1].blocks) < 5)
    assert sorted(one.blocks) == sorted(two.blocks) == list(range(5))


def test_with_cold_caches_each_run_is_on_its_own(diary: Path) -> None:
    entrants = [Entrant("fast", Sleeper, (0.004, diary)), Entrant("slow", Sleeper, (0.008, diary))]
    fast, slow = race(entrants, blocks=3, block_seconds=0.3, threads=1, cold=True)
    assert compare(fast, slow)["ratio"] == pytest.approx(0.5)  # without the time that emptying the caches takes
    assert max(len(block) for block in fast.blocks.values()) <= 0.3 / 0.004  # which is part of a turn's
    runs = sum(len(block) for peer in (fast, slow) for block in peer.blocks.values())
    assert len(diary.read_text().splitlines()) > runs  # each alone, and those that warm up


def test_one_that_cannot_start_and_one_that_dies_leave_the_others_alone(diary: Path) -> None:
    entrants = [
        Entrant("fast", Sleeper, (0.004, diary)),
        Entrant("broken", broken, (diary,)),
        Entrant("dying", Dying, (0.004, diary)),
        Entrant("gone", Sleeper, (0.004, diary, 0)),
    ]
    fast, none, dying, gone = race(entrants, blocks=5, block_seconds=0.02, threads=1)
    assert len(fast.blocks) == 5
    assert not fast.error
    assert none.error == "no such runtime"
    assert len(dying.blocks) == 2
    assert "exit code 7" in dying.error
    assert "exit code 7" in gone.error


def test_without_the_first_there_is_no_race(diary: Path) -> None:
    with pytest.raises(MeasureError, match="ours cannot be timed: no such runtime"):
        race([Entrant("ours", broken, (diary,)), Entrant("fast", Sleeper, (0.004, diary))], 2, 0.01, 1)


def test_the_ratio_is_of_the_blocks_that_both_ran_in() -> None:
    ours = Peer("ours", {0: [1.0, 1.0], 1: [50.0], 2: [1.0]})
    other = Peer("other", {0: [2.0], 2: [2.0, 2.0]})
    assert compare(ours, other) == {"ratio": 0.5, "ratio_low": 0.5, "ratio_high": 0.5}
    assert latency(other) == {"min_ms": 2000.0, "median_ms": 2000.0}
    assert np.isnan(compare(ours, Peer("nobody"))["ratio"])


def test_difference_is_relative_to_the_largest_output() -> None:
    ours, other = [np.asarray([1.0, 100.0])], [np.asarray([2.0, 100.0])]
    assert difference(ours, other) == pytest.approx(0.01)
    assert difference(ours, [np.zeros(3)]) == np.inf


def test_another_method_is_called_with_the_inputs(diary: Path) -> None:
    process = PeerProcess(1)
    try:
        process.start(Sleeper, (0.0, diary))
        process.prepare([np.full((2, 3), 3.0)])
        assert process.call("scaled", 5) == 15.0
        with pytest.raises(MeasureError, match="no attribute 'nothing'"):
            process.call("nothing")
    finally:
        process.kill()
