"""What ``tilewright records`` says."""

from __future__ import annotations

from pathlib import Path

from tests.cli.test_bad_input import tilewright
from tilewright.records import open_store
from tilewright.task import Task


def test_a_store_without_measurements_is_told(tmp_path: Path) -> None:
    file = tmp_path / "records.db"
    open_store(file).close()
    done = tilewright("records", "ls", "--records", file)
    assert done.returncode == 0
    assert "holds no measurements" in done.stderr
    assert tilewright("--quiet", "records", "ls", "--records", file).stderr == ""


def test_an_export_replaces_no_records(tmp_path: Path) -> None:
    file = tmp_path / "records.db"
    with open_store(file) as store:
        store.describe(Task("a" * 16, "a task", "contraction", 1e9, ""))
    held = file.read_bytes()
    for option in ("--out", "--programs"):
        done = tilewright("records", "export", "--records", file, option, file)
        assert (done.returncode, file.read_bytes()) == (2, held)
        assert f"{option} replaces earlier exports only" in done.stderr
    done = tilewright("cost", "train", "--records", file, "--out", file)
    assert (done.returncode, file.read_bytes()) == (2, held)
    for _ in range(2):
        assert tilewright("records", "export", "--records", file, "--out", tmp_path / "out.jsonl").returncode == 0
