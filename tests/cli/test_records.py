"""What ``tilewright records`` says, in this process."""

from __future__ import annotations

from pathlib import Path

from tests.cli.test_bad_input import call
from tests.records.test_sqlite import edit, measured
from tilewright.records import open_store
from tilewright.task import Task


def test_a_store_without_measurements_is_told(tmp_path: Path) -> None:
    file = tmp_path / "records.db"
    open_store(file).close()
    done = call("records", "ls", "--records", file)
    assert done.exit_code == 0
    assert "holds no measurements" in done.stderr
    assert call("--quiet", "records", "ls", "--records", file).stderr == ""


def test_an_export_replaces_no_records(tmp_path: Path) -> None:
    file = tmp_path / "records.db"
    with open_store(file) as store:
        store.describe(Task("a" * 16, "a task", "contraction", 1e9, ""))
    held = file.read_bytes()
    for option in ("--out", "--programs"):
        done = call("records", "export", "--records", file, option, file)
        assert (done.exit_code, file.read_bytes()) == (2, held)
        assert f"{option} replaces earlier exports only" in done.stderr
    done = call("cost", "train", "--records", file, "--out", file)
    assert (done.exit_code, file.read_bytes()) == (2, held)
    for _ in range(2):
        assert call("records", "export", "--records", file, "--out", tmp_path / "out.jsonl").exit_code == 0


def test_an_export_of_records_that_are_damaged_half_way_leaves_the_earlier_one(tmp_path: Path) -> None:
    file, out = tmp_path / "records.db", tmp_path / "exports" / "out.jsonl"
    out.parent.mkdir()
    with open_store(file) as store:
        store.add([measured("a", index) for index in range(20)])
    assert call("records", "export", "--records", file, "--out", out).exit_code == 0
    earlier = out.read_bytes()
    assert earlier.count(b"\n") == 20
    edit(file, "UPDATE measurements SET config = '[1.5]' WHERE id = 15")
    done = call("records", "export", "--records", file, "--out", out)
    assert done.exit_code == 2
    assert out.read_bytes() == earlier
    assert list(out.parent.iterdir()) == [out]
