"""``kill -9`` at 50 random moments: 8 times the tuner, 42 times one of its workers."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from bench._kills import _Killer, doubled, kill_tuners, kill_workers, writers
from tests.models import conv_model
from tilewright.executable.executable import load_executable
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.pool import LocalPool
from tilewright.measure.worker_process import WorkerProcess
from tilewright.measure.workforce import MOST_START_FAILURES


def test_a_killed_tuner_loses_and_leaves_nothing_and_the_same_command_goes_on(tmp_path: Path) -> None:
    model, folder = conv_model(tmp_path / "m.onnx"), tmp_path / "run"
    result = kill_tuners(model, folder, kills=8, latest=7.0)
    assert (result["kills"], result["kills_survived"]) == (8, 8)
    assert (result["records_lost"], result["records_doubled"], result["orphans"]) == (0, 0, 0)
    assert (result["runs_failed"], result["leftovers"]) == (0, [])
    assert result["records"] >= 40
    assert load_executable(folder / "out").inputs[0].shape == (1, 8, 10, 10)


def test_a_killed_worker_costs_one_candidate_at_most(tmp_path: Path) -> None:
    result = kill_workers(tmp_path, kills=42, seconds=900.0)
    assert (result["kills"], result["kills_survived"]) == (42, 42)
    assert (result["records_lost"], result["records_doubled"], result["orphans"]) == (0, 0, 0)
    assert result["candidates_lost"] <= 42


class Worker:
    def __init__(self, started: bool) -> None:
        self.started = started


def worker(started: bool) -> WorkerProcess:
    return cast(WorkerProcess, Worker(started))


@pytest.mark.parametrize("seed", range(20))
def test_shots_leave_a_pool_enough_to_recover(seed: int) -> None:
    killer = _Killer(cast(LocalPool, None), [], 50, seed)
    old, new, starting = worker(True), worker(True), [worker(False) for _ in range(4)]
    assert killer.chosen(starting) == []  # nobody has started
    found = [killer.chosen([old, *starting]) for _ in range(100)]
    assert all(1 <= len(chosen) <= 3 for chosen in found)
    assert all(sum(not process.started for process in chosen) < MOST_START_FAILURES for chosen in found)
    killer._shot = [old]
    assert killer.chosen([new, old, *starting]) == []  # the pool has yet to notice
    assert killer.chosen([new, *starting]) != []
    assert any(len(killer.chosen([new, *starting[:2]])) == 3 for _ in range(100))  # all at once
    killer.done = 49
    assert len(killer.chosen([new, *starting])) == 1


def test_writers_of_one_store_lose_nothing_although_one_is_killed(tmp_path: Path) -> None:
    result = writers(tmp_path, count=3, seconds=4.0)
    assert (result["failed"], result["records_lost"], result["records_doubled"]) == (0, 0, 0)
    assert result["records"] > 0


def test_what_counts_as_doubled() -> None:
    ok = Measurement("t", "m", "x/1", (1,), Outcome.OK, (1.0,))
    crashed = Measurement("t", "m", "x/1", (1,), Outcome.RUN_CRASHED)
    assert doubled([ok, crashed, crashed]) == 0  # tried again, once in vain
    assert doubled([ok, ok, ok, crashed]) == 2
