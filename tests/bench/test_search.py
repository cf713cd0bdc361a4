"""The comparison of searchers runs, keeps its runs, and its figures mean what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import search
from bench.replay import read
from bench.search import (
    Cell,
    Run,
    interval,
    rounds_until,
    seconds_to,
    speed_after,
    speed_by,
    trials_to,
    upto,
)

FOUND = Run(
    trials=[1, 5, 20, 40], seconds=[0.5, 2.0, 9.0, 20.0], slowdown=[3.0, 1.5, 1.04, 1.0], rounds=[16, 32, 48], asked=48
)
TABLES = Path(__file__).parents[2] / "bench" / "tables"
SMALLEST = "conv1x1-256-64-56"


def test_figures_of_a_run() -> None:
    assert trials_to(FOUND, 3000) == 20
    assert trials_to(upto(FOUND, 19), 3000) == 3000
    assert [speed_after(FOUND, n) for n in (0, 1, 4, 5, 20, 1000)] == pytest.approx(
        [0, 1 / 3, 1 / 3, 2 / 3, 1 / 1.04, 1]
    )
    # The first round needs no thinking; trial 20 is of the second.
    assert [rounds_until(FOUND, n) for n in (1, 16, 17, 40)] == [0, 0, 1, 2]
    assert seconds_to(FOUND, 0.5, 100.0) == pytest.approx(9.5)
    assert seconds_to(upto(FOUND, 19), 0.5, 100.0) == 100.0
    assert speed_by(FOUND, 9.4, 0.5) == pytest.approx(2 / 3)
    assert speed_by(FOUND, 9.5, 0.5) == pytest.approx(1 / 1.04)


def test_intervals_hold_the_mean_and_narrow_with_more_data() -> None:
    values = np.random.default_rng(0).normal(10.0, 2.0, size=200)
    few, many = interval(values[:10]), interval(values)
    for figure in (few, many):
        assert figure["low"] <= figure["mean"] <= figure["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]


def test_methods_without_a_cost_model_may_measure_a_tenth() -> None:
    table = read(TABLES / f"{SMALLEST}.parquet")
    tenth = int(np.ceil(0.1 * len(table)))
    assert search.limit_of(Cell(SMALLEST, "gbfs", 16, 0), table) == tenth
    assert search.limit_of(Cell(SMALLEST, "chameleon", 64, 0), table) == 256
    assert search.limit_of(Cell(SMALLEST, "gbfs+adaptive", 16, 0), table) == 128


def test_a_small_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compare() -> dict[str, list[dict[str, object]]]:
        arguments = f"--seeds 2 --only {SMALLEST} --searchers random,annealing --samplers top,epsilon-greedy --jobs 1"
        files = ["--json", str(tmp_path / "s.json"), "--cache", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", ["search", *arguments.split(), *files])
        search.main()
        return dict(json.loads((tmp_path / "s.json").read_text()))

    monkeypatch.setattr(search, "thinking_seconds", lambda arms, asked: dict.fromkeys(arms, 0.1))
    first = compare()
    assert [(row["arm"], row["searcher"], row["sampler"]) for row in first["rows"]] == [
        ("random+top", "random", "top"),
        ("random+epsilon-greedy", "random", "epsilon-greedy"),
        ("annealing+top", "annealing", "top"),
        ("autotvm", "annealing", "epsilon-greedy"),
    ]
    for row in first["rows"]:
        assert row["table"] == SMALLEST
        figure = row["trials_to_5pct"]
        assert isinstance(figure, dict)
        assert 1 <= figure["low"] <= figure["mean"] <= figure["high"] <= row["configs"]
    assert "runs, " in capsys.readouterr().out
    again = compare()
    assert again["rows"] == first["rows"]
    printed = capsys.readouterr().out
    assert "runs, " not in printed  # all were kept
    assert "random+top" in printed
    assert "10.0 %" in printed


def test_runs_are_the_same_for_the_same_seed() -> None:
    path = TABLES / f"{SMALLEST}.parquet"
    cell = Cell(SMALLEST, "annealing+adaptive", 16, 3)
    assert search.run(path, cell) == search.run(path, cell)
