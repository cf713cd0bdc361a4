"""What people are shown."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from tests.tuning.replay import Clock
from tilewright.tuning.budget import Budget
from tilewright.tuning.progress import (
    PlainProgress,
    RichProgress,
    SilentProgress,
    TuneState,
    describe_state,
    progress_for,
)
from tilewright.tuning.report import NodeReport

STATE = TuneState(
    remaining=239.4,
    trials=250,
    trials_per_second=4.2,
    estimated_latency=0.0123,
    failures={"run_crashed": 2, "build_failed": 1, "invalid": 0},
    task="conv2d [3x3] 64x55x55",
    tasks_done=5,
    tasks=18,
)


def test_a_plain_line_says_it_all() -> None:
    stream = io.StringIO()
    with PlainProgress(stream) as progress:
        progress.update(STATE)
    line = stream.getvalue()
    assert line.count("\n") == 1
    for part in ("3:59", "250 (4.2 per second)", "12.300 ms", "5 of 18", "build_failed 1, run_crashed 2", STATE.task):
        assert part in line
    assert "invalid" not in line


def test_a_phase_has_a_line_at_once_and_no_trials_before_there_are_tasks() -> None:
    stream, clock = io.StringIO(), Clock()
    running = Budget.parse("5m").start(clock=clock, progress=PlainProgress(stream, interval=5.0, clock=clock))
    running.enter("reading")
    clock.now = 1.0
    running.enter("rounds")
    running.show(STATE)
    clock.now = 9.0
    running.show(STATE)
    first, second, third = stream.getvalue().splitlines()
    assert first == "phase reading; time left 5:00"
    assert second == "phase rounds; time left 4:59"
    assert third.startswith("phase rounds; time left 4:51; trials 250")


def test_plain_lines_keep_their_distance_and_the_last_is_not_lost() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, interval=5.0, clock=clock) as progress:
        for second in range(12):
            clock.now = float(second)
            progress.update(TuneState(trials=second))
    trials = [line.split("trials ")[1].split()[0] for line in stream.getvalue().splitlines()]
    assert trials == ["0", "5", "10", "11"]


def test_unknown_things_are_said_to_be_unknown() -> None:
    stream = io.StringIO()
    with PlainProgress(stream) as progress:
        progress.update(TuneState(remaining=math.inf, trials_left=30.0, tasks_without_success=2))
    line = stream.getvalue()
    for part in ("no limit", "not known yet", "30 left", "without 2 tasks", "failures none"):
        assert part in line


def test_the_display_shows_the_task_as_it_is_named_and_goes_on_counting() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, width=100)
    with RichProgress(console, clock) as progress:
        progress.update(STATE)
        clock.now = 60.0
    text = stream.getvalue()
    assert "2:59" in text
    assert "conv2d [3x3] 64x55x55" in text
    assert "12.300 ms" in text


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with SilentProgress() as progress:
        progress.update(STATE)
    assert capsys.readouterr() == ("", "")


def test_lines_where_there_is_no_terminal() -> None:
    assert isinstance(progress_for(io.StringIO()), PlainProgress)


def test_a_plan_stays_on_the_screen() -> None:
    lines = ["24 tasks", "conv2d [3x3] lends to conv2d [1x1]"]
    stream = io.StringIO()
    with PlainProgress(stream) as plain:
        plain.announce(lines)
    assert stream.getvalue().splitlines() == lines
    stream = io.StringIO()
    with RichProgress(Console(file=stream, force_terminal=True, width=100)) as display:
        display.announce(lines)
        display.update(STATE)
    assert all(line in stream.getvalue() for line in lines)
    SilentProgress().announce(lines)


def test_nodes_are_shown_by_kind_and_the_gone_ones_are_counted() -> None:
    names = [f"n{number}" for number in range(8)]
    nodes = [NodeReport(name, "znver4-1x", 1, "measuring", "", 3) for name in names]
    nodes += [NodeReport("old", "znver3-2x", 2, "measuring", "", 5), NodeReport("gone", "znver3-2x", 2, "lost", "", 7)]
    line = describe_state(replace(STATE, nodes=tuple(nodes)))
    assert "nodes 8 of kind znver4-1x (n0 3, n1 3, n2 3, n3 3, n4 3, n5 3 and 2 more)" in line
    assert "nodes 1 of kind znver3-2x (old 5); gone 1 node lost" in line
    assert "nodes" not in describe_state(STATE)
