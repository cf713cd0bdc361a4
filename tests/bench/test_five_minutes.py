"""What ``bench.five_minutes`` and ``bench.sharing`` make of a run, without running one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from bench.five_minutes import enough, joined, moment, settled, tuned
from bench.sharing import ARMS, show, summary


@pytest.mark.parametrize(
    ("latencies", "seconds"),
    [
        ([4.0, 2.0, 1.02, 1.0], 3.0),  # 1.02 is near enough, and was there after 3 s
        ([1.0], 1.0),
        ([1.02, 1.0], 1.0),
        ([1.0, 1.5, 1.01, 1.0], 3.0),  # a race may find the best to be slower than it seemed
    ],
)
def test_settled_is_from_when_on_the_latency_stays(latencies: list[float], seconds: float) -> None:
    assert settled([(float(i), latency) for i, latency in enumerate(latencies, 1)]) == seconds


def command(began: float, minutes: float, finishing: float, curve: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "began": began,
        "budget_seconds": 60 * minutes,
        "build_seconds": finishing + 5.0,
        "in_place": {"seconds": 5.0},
        "curve": curve,
    }


def test_a_mark_is_of_the_command_in_which_it_falls() -> None:
    commands = [command(1000.0, 10, 20.0, []), command(9000.0, 20, 30.0, [])]
    share = 0.06
    assert moment(commands[:1], 300.0) == pytest.approx(1000.0 + 300.0 - 20.0 - share * 300.0)
    assert moment(commands, 600.0) == pytest.approx(1000.0 + 600.0 - 20.0 - share * 600.0)
    assert moment(commands, 1800.0) == pytest.approx(9000.0 + 1200.0 - 30.0 - share * 1800.0)


def test_the_curve_goes_on_where_the_command_before_ended() -> None:
    commands = [command(0.0, 10, 1.0, [(50.0, 3.0), (590.0, 2.0)]), command(0.0, 20, 1.0, [(40.0, 1.9)])]
    assert joined(commands) == [(50.0, 3.0), (590.0, 2.0), (640.0, 1.9)]


def entry(performance: float, time: float) -> dict[str, object]:
    arm = {
        "seconds": 100.0 * time,
        "trials": 10,
        "latency_ms": 1.0 / performance,
        "time_ratio": time,
        "performance_ratio": performance,
        "turns": [performance],
    }
    return {"tasks": 3, "arms": dict.fromkeys(ARMS, arm)}


def test_ratios_of_networks_are_summed_up_by_their_geometric_mean_and_range() -> None:
    networks = {"a": entry(0.9, 0.2), "b": entry(1.0, 0.05)}
    found = summary(networks)["default"]
    assert found["performance_ratio"] == pytest.approx({"mean": 0.9**0.5, "low": 0.9, "high": 1.0})
    assert found["time_ratio"] == pytest.approx({"mean": 0.1, "low": 0.05, "high": 0.2})
    assert "0.900 (0.900 to 0.900)" in show(networks)


def test_pictures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench._curves import plot_ratios, plot_sharing

    ratio = {"ratio": 0.8, "ratio_low": 0.7, "ratio_high": 0.9}
    plot_ratios({"a": {"marks": {"30": {"ratio": ratio}, "300": {"ratio": ratio}, "600": {}}}}, tmp_path / "one.png")
    plot_sharing({"a": entry(0.9, 0.2)}, tmp_path / "two.png")
    assert (tmp_path / "one.png").stat().st_size > 1000
    assert (tmp_path / "two.png").stat().st_size > 1000


def test_what_was_tuned_with_other_records_is_not_gone_on_with(tmp_path: Path) -> None:
    report = {**command(100.0, 5.0, 20.0, []), "records": str(tmp_path / "records.db"), "sharing_by": "own"}
    (tmp_path / "tune.json").write_text(json.dumps(report))
    assert tuned("squeezenet", 5.0, tmp_path, tmp_path / "records.db", "own") == [report]
    for records, sharing in ((tmp_path / "other.db", "own"), (tmp_path / "records.db", "none")):
        with pytest.raises(SystemExit, match="name another --cache"):
            tuned("squeezenet", 5.0, tmp_path, records, sharing)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"minutes": 5.0, "turns": 10}, True),
        ({"minutes": 30.0}, False),
        ({"turns": 80}, False),
        ({"sharing": "none"}, False),
        ({"one_store": True}, False),
    ],
)
def test_an_entry_is_kept_where_it_is_what_is_asked_for(changes: dict[str, Any], kept: bool) -> None:
    entry: dict[str, Any] = {"minutes": 10.0, "turns": 20, "sharing_by": "own", "records": "nine/vgg19/records.db"}
    asked: dict[str, Any] = {"minutes": 10.0, "turns": 20, "sharing": "own", "cache": Path("nine"), "one_store": False}
    assert enough(entry, argparse.Namespace(**asked | changes)) is kept
