"""Tables of results pages are made of files: what a bench wrote, or figures as they stand in a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench.pages import fill, keep
from tests.pages import DOCS

FIGURES = {
    "load_ms": 3.14,
    "python_load_ms": 38.4,
    "call_overhead_us": 0.139,
    "throughput_ratio": 1,
    "core_scaling": 1,
}
PAGE = "Before\n<!-- table {0}: written by bench.pages -->\nold\n<!-- end of table -->\nafter\n"


def test_what_a_bench_wrote_is_kept_and_becomes_a_table(tmp_path: Path) -> None:
    written = tmp_path / "export.json"
    written.write_text(json.dumps(FIGURES | {"date": "2026-11-30T04:13:05+0000"}))
    (tmp_path / "data").mkdir()
    place = keep(written, tmp_path / "data", "a machine", ["a command"])
    about = json.loads(place.read_text())
    assert (about["machine"], about["date"], about["commands"]) == ("a machine", "2026-11-30", ["a command"])
    assert about["figures"] == FIGURES
    page = fill(PAGE.format("export"), place.parent)
    assert page.startswith("Before\n")
    assert page.endswith("<!-- end of table -->\nafter\n")
    assert "old" not in page
    assert "| 3.1 ms | under 50 ms |" in page


def test_copied_figures_keep_their_digits(tmp_path: Path) -> None:
    about = """{"machine": "m", "date": "2026-11-30", "commands": [],
        "columns": ["network", ["ms", "{,} ms ({,})"], "error"],
        "rows": [["A-1", [2601.50, 0.10], 4.30e-06], ["B", "-", ""]]}"""
    (tmp_path / "t.json").write_text(about)
    page = fill(PAGE.format("t"), tmp_path)
    assert "| A-1 | 2,601.50 ms (0.10) | 4.30e-06 |\n| B | - | |\n" in page


def test_a_table_that_nothing_makes_is_an_error(tmp_path: Path) -> None:
    shutil.copy(DOCS / "results/data/export.json", tmp_path / "other.json")
    with pytest.raises(KeyError, match="other"):
        fill(PAGE.format("other"), tmp_path)
    with pytest.raises(FileNotFoundError):
        fill(PAGE.format("missing"), tmp_path)
