"""The bench of reliability: what stands in its file, and when it says that something went wrong."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import _malformed, reliability

FAULTS = {"faults": {"NAN": {"injected": 3, "survived": 3}}, "others_failed": 0, "longest_gap": 2.5}
TUNERS = {"kills": 12, "kills_survived": 12, "records_lost": 0, "records_doubled": 0, "orphans": 0, "leftovers": []}
WORKERS = {"kills": 38, "kills_survived": 38, "records_lost": 0, "records_doubled": 0, "orphans": 0, "longest_gap": 4.0}
WRITERS = {"writers": 4, "failed": 0, "records_lost": 0, "records_doubled": 0}
READER: dict[str, Any] = {"malformed_tried": 70, "malformed_refused": 70, "still_valid": 9, "failures": []}
MALFORMED = {"malformed_tried": 70, "malformed_refused": 70, "readers": {"ONNX": READER}}
FIGURES: dict[str, dict[str, Any]] = {
    "faults": FAULTS,
    "tuners": TUNERS,
    "workers": WORKERS,
    "writers": WRITERS,
    "malformed": MALFORMED,
}
TOLD = {
    "faults": FAULTS["faults"],
    "kills": 50,
    "kills_survived": 50,
    "records_lost": 0,
    "records_doubled": 0,
    "orphans": 0,
    "malformed_tried": 70,
    "malformed_refused": 70,
    "writers": 4,
    "longest_gap": 4.0,
    "errors": {},
    "problems": [],
}


def fake(monkeypatch: pytest.MonkeyPatch, step: str, measure: Callable[[Path], dict[str, Any]], limit: float) -> None:
    replaced = replace(reliability.STEPS[step], measure=measure, limit=limit)
    monkeypatch.setitem(reliability.STEPS, step, replaced)


def _told(figures: dict[str, Any], folder: Path) -> dict[str, Any]:
    return dict(figures)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for step, figures in FIGURES.items():
        fake(monkeypatch, step, partial(_told, figures), 60.0)


def ran(monkeypatch: pytest.MonkeyPatch, path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["reliability", "--json", str(path), *more])
    with pytest.raises(SystemExit) as ended:
        reliability.main()
    report = json.loads(path.read_text())
    assert isinstance(report, dict)
    return int(ended.value.code or 0), report


def test_the_file_holds_what_was_found_and_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, report = ran(monkeypatch, tmp_path / "r.json")
    assert code == 0
    assert {key: report[key] for key in TOLD} == TOLD
    assert set(report["steps"]) == set(reliability.STEPS)
    assert all(figures["seconds"] >= 0 for figures in report["steps"].values())
    assert report["command"] == "python -m bench.reliability"
    assert {"machine", "threads", "date", "tvm", "tilewright", "wall_seconds"} <= set(report)


def test_the_table_tells_each_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    ran(monkeypatch, tmp_path / "r.json")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["fault:", "NAN", "3", "3"] in lines
    assert ["kill", "-9", "of", "workers", "38", "38"] in lines
    assert ["malformed:", "ONNX", "70", "70"] in lines
    assert ["records_lost:", "0"] in lines


@pytest.mark.parametrize(
    ("step", "harm", "said"),
    [
        ("faults", {"faults": {"NAN": {"injected": 3, "survived": 2}}}, "2 of 3 NAN survived"),
        ("faults", {"others_failed": 1}, "others_failed is 1"),
        ("tuners", {"kills_survived": 11}, "11 of 12 kills survived"),
        ("tuners", {"leftovers": ["tmp/x"]}, "leftovers"),
        ("tuners", {"runs_failed": 1}, "runs_failed"),
        ("workers", {"kills": 30, "kills_survived": 30}, "only 30 of 38 kills"),
        ("workers", {"records_lost": 1}, "records_lost is 1"),
        ("workers", {"orphans": 2}, "orphans is 2"),
        ("writers", {"records_doubled": 2}, "records_doubled is 2"),
        ("writers", {"failed": 1}, "failed is 1"),
        ("malformed", {"readers": {"ONNX": READER | {"failures": ["KeyError: 1"]}}}, "ONNX: KeyError: 1"),
        ("malformed", {"readers": {"ONNX": READER | {"malformed_refused": 69}}}, "ONNX: 69 of 70 refused"),
        ("malformed", {"readers": {"ONNX": READER | {"malformed_tried": 0, "malformed_refused": 0}}}, "to its end"),
        ("malformed", {"wanted_seconds": 10.0, "readers": {"ONNX": READER | {"seconds": 0.4}}}, "0.4 of 10.0 s"),
    ],
)
def test_any_harm_is_told_by_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, step: str, harm: dict[str, Any], said: str
) -> None:
    fake(monkeypatch, step, lambda folder: FIGURES[step] | harm, 60.0)
    code, report = ran(monkeypatch, tmp_path / "r.json")
    assert code == 1
    [problem] = report["problems"]
    assert problem.startswith(f"{step}: ")
    assert said in problem
    assert f"PROBLEM: {problem}" in capsys.readouterr().out


def test_a_part_that_fails_does_not_lose_the_others_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "r.json"

    def failing(folder: Path) -> dict[str, Any]:
        assert json.loads(path.read_text())["faults"] == FAULTS["faults"]  # written after each part
        raise RuntimeError("no such thing")

    fake(monkeypatch, "tuners", failing, 60.0)
    code, report = ran(monkeypatch, path)
    assert code == 1
    assert report["errors"] == {"tuners": "RuntimeError: no such thing"}
    assert report["problems"] == ["tuners: RuntimeError: no such thing"]
    assert (report["kills"], report["writers"], report["malformed_refused"]) == (38, 4, 70)
    assert "no such thing" in capsys.readouterr().err


def test_a_part_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def endless(folder: Path) -> dict[str, Any]:
        while True:
            try:
                time.sleep(60.0)
            except Exception:
                raise AssertionError("the limit looked like an error of what was measured") from None

    fake(monkeypatch, "workers", endless, 0.05)
    code, report = ran(monkeypatch, tmp_path / "r.json")
    assert code == 1
    assert "took longer than 0.05 s" in report["errors"]["workers"]
    assert (report["kills"], report["malformed_tried"]) == (12, 70)


def test_only_the_parts_that_are_asked_for_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, report = ran(monkeypatch, tmp_path / "r.json", "--parts", "kills,writers")
    assert code == 0
    assert list(report["steps"]) == ["tuners", "workers", "writers"]
    assert report["command"] == "python -m bench.reliability --parts kills,writers"
    assert report["faults"] is report["malformed_tried"] is None  # not 0: nothing was tried
    code, _ = ran(monkeypatch, tmp_path / "r.json", "--parts", "kill")
    assert code == 2


def test_the_whole_ends_within_20_minutes() -> None:
    assert sum(step.limit for step in reliability.STEPS.values()) <= 1200
    assert sum(step.wanted for step in reliability.STEPS.values()) == 50


def test_the_malformed_files_are_added_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts = _malformed.Counts()
    for said in ("refused", "valid", "refused", "KeyError: 'x'"):
        counts.add(said)
    monkeypatch.setattr(_malformed, "count", lambda seconds, most: {"a": counts, "b": counts})
    found = reliability.malformed(tmp_path)
    assert (found["malformed_tried"], found["malformed_refused"]) == (6, 4)
    assert found["readers"]["b"]["failures"] == ["KeyError: 'x'"]
