"""What ``tilewright records`` says."""

from __future__ import annotations

from pathlib import Path

from tests.cli.test_bad_input import tilewright
from tilewright.records import open_store


def test_a_store_without_measurements_is_told(tmp_path: Path) -> None:
    file = tmp_path / "records.db"
    open_store(file).close()
    done = tilewright("records", "ls", "--records", file)
    assert done.returncode == 0
    assert "holds no measurements" in done.stderr
    assert tilewright("--quiet", "records", "ls", "--records", file).stderr == ""
