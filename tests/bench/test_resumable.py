"""A tuning run that is paused, killed and resumed knows how long it ran, and what it had by when."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench._resumable import (
    PROGRESS,
    RECORDS,
    WORKLOADS,
    Progress,
    Records,
    RunningTime,
    Settings,
    State,
    count_by,
    mend,
    truncated,
)
from tilewright.errors import RecordsFormatError


class Clock:
    """Stands where it was set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def record(workload: int, *seconds: float) -> str:
    """A line as MetaSchedule writes it."""
    return json.dumps([workload, [["trace"], list(seconds), {"kind": "llvm"}, []]]) + "\n"


def append(folder: Path, *lines: str) -> None:
    with (folder / RECORDS).open("a") as file:
        file.writelines(lines)


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    clock = Clock()
    running = RunningTime(40.0, clock)
    for gap, seconds, stops in ((1.0, 41.0, 0), (2.9, 43.9, 0), (600.0, 44.9, 1), (1.0, 45.9, 1), (3.5, 46.9, 2)):
        clock.now += gap
        assert running.tick() == pytest.approx(seconds)
        assert running.stops == stops


def test_what_counts_as_stopped_is_ones_own_choice() -> None:
    clock = Clock()
    running = RunningTime(clock=clock, longest=15.0)
    for gap, seconds, stops in ((10.0, 10.0, 0), (16.0, 11.0, 1)):
        clock.now += gap
        assert running.tick() == pytest.approx(seconds)
        assert running.stops == stops


@given(st.lists(st.floats(0, 1e4), max_size=30))
def test_running_time_is_at_most_the_clocks(gaps: list[float]) -> None:
    clock = Clock()
    running, before = RunningTime(0.0, clock), 0.0
    for gap in gaps:
        clock.now += gap
        after = running.tick()
        assert before <= after <= clock.now - 100.0 + 1e-6
        before = after
    assert running.seconds <= 3.0 * len(gaps) + 1e-6


def test_state_is_what_was_saved(tmp_path: Path) -> None:
    assert State.load(tmp_path) is None
    state = State(Settings("squeezenet", 16, "NHWC", "llvm:core-avx2", 3), 12.5, [4.0, 3.0])
    state.save(tmp_path)
    state.save(tmp_path)
    assert State.load(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": {"depth": 3}, "seconds": 1, "preparations": []}'])
def test_what_is_no_state_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(RecordsFormatError, match=r"state\.json .* choose another --dir"):
        State.load(tmp_path)


def test_records_are_read_as_they_come(tmp_path: Path) -> None:
    records = Records(tmp_path / RECORDS)
    records.read()
    assert records.count == 0
    append(tmp_path, record(0, 0.004), record(1, 1e10), record(0, 0.002, 0.004)[:-10])
    records.read()
    assert (records.count, records.failed, records.missing(3)) == (2, 1, 2)
    append(tmp_path, record(0, 0.002, 0.004)[-10:], record(2, 0.001))
    records.read()
    assert (records.count, records.failed, records.missing(3)) == (4, 1, 1)
    assert records.runs == {0: [0.004, pytest.approx(0.003)], 1: [math.inf], 2: [0.001]}
    assert records.latency_ms([2, 1, 5]) is None
    append(tmp_path, record(1, 0.010))
    records.read()
    assert records.latency_ms([2, 1, 5]) == pytest.approx(6 + 10 + 5)


def test_progress_is_written_when_records_come_and_now_and_then(tmp_path: Path) -> None:
    progress = Progress(tmp_path, [1.0, 2.0])
    written = []
    for second in range(40):
        if second == 7:
            append(tmp_path, record(0, 0.004), record(0, 0.003))
        if second == 24:
            append(tmp_path, record(1, 0.001))
        if progress.update(float(second)):
            written.append(second)
    assert written == [0, 7, 22, 24, 39]
    assert progress.update(39.5, last=True)
    entries = [json.loads(line) for line in (tmp_path / PROGRESS).read_text().splitlines()]
    assert [entry["records"] for entry in entries] == [0, 2, 2, 3, 3, 3]
    assert [entry["missing"] for entry in entries] == [2, 1, 1, 0, 0, 0]
    assert [entry["latency_ms"] for entry in entries] == [None, None, None, *3 * [pytest.approx(5.0)]]


def test_a_later_call_goes_on_with_the_same_progress(tmp_path: Path) -> None:
    append(tmp_path, record(0, 0.004))
    Progress(tmp_path, [1.0]).update(10.0)
    append(tmp_path, record(0, 0.002))
    Progress(tmp_path, [1.0]).update(30.0, last=True)
    assert [count_by(tmp_path / PROGRESS, seconds) for seconds in (0, 9.9, 10, 29, 30, 31)] == [0, 0, 1, 1, 2, 2]


def test_the_database_is_cut_to_what_it_was(tmp_path: Path) -> None:
    (tmp_path / WORKLOADS).write_text("first\nsecond\n")
    lines = [record(number % 2, 0.001) for number in range(5)]
    progress = Progress(tmp_path, [1.0, 1.0])
    for number, line in enumerate(lines):
        append(tmp_path, line)
        progress.update(10.0 * (number + 1))
    append(tmp_path, '[1, [["half')
    for seconds, count in ((5, 0), (10, 1), (39.9, 3), (50, 5)):
        out = truncated(tmp_path, seconds, tmp_path / f"{seconds}")
        assert (out / RECORDS).read_text() == "".join(lines[:count])
        assert (out / WORKLOADS).read_text() == "first\nsecond\n"
    with pytest.raises(RecordsFormatError, match=r"second 60 was asked for .* ends at second 50; tune on"):
        truncated(tmp_path, 60, tmp_path / "late")


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / RECORDS
    mend(path)
    assert not path.exists()
    for before, after in (("", ""), ("one\ntwo\n", "one\ntwo\n"), ("one\ntw", "one\n"), ("on", "")):
        path.write_text(before)
        mend(path)
        assert path.read_text() == after
