"""The log of a run: what is written can be read, and what cannot be written ends no run."""

from __future__ import annotations

import math
from pathlib import Path

from tilewright.report.history import parse_events
from tilewright.tuning.budget import Budget
from tilewright.tuning.run_events import KernelsEvent, LatencyEvent, RoundEvent, TaskFunctions, Trial
from tilewright.tuning.run_log import RunLog, event_line


def write(log: RunLog) -> None:
    log.phase("reading")
    log.network((TaskFunctions("k", "conv", ("fused_conv",), 2.0, 1e6),))
    log.phase("rounds")
    log.latency(0.25)
    log.kernels(("fused_conv_00000000",), (0.125,))
    log.end()
    log.close()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(RunLog(Budget.parse("1m").start(), path))
    history = parse_events(path.read_text().splitlines())
    assert history.unread == 0
    assert [phase.name for phase in history.phases] == ["reading", "rounds"]
    assert history.running() is None
    assert [each.seconds for each in history.latencies] == [0.25]
    assert history.functions == (TaskFunctions("k", "conv", ("fused_conv",), 2.0, 1e6),)
    assert isinstance(history.kernels, KernelsEvent)
    assert history.kernels.seconds == (0.125,)
    assert all(sample.bytes > 0 for sample in history.machine)


def test_an_event_survives_its_line() -> None:
    event = RoundEvent(1.5, "k", 0.5, 2, 0.25, {"tile": "4 8"}, (Trial((1, 2), 0.25, "ok"), Trial((0, 2), None, "x")))
    assert parse_events([event_line(event)]).tasks["k"].rounds == [event]


def test_a_latency_that_is_not_finite_ends_no_run() -> None:
    assert '"seconds":null' in event_line(LatencyEvent(1.0, math.inf))


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    write(RunLog(Budget.parse("1m").start(), tmp_path / "missing" / "run.jsonl"))
    write(RunLog(Budget.parse("1m").start(), Path("/dev/full")))
