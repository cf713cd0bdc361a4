"""Where errors end: one message, an exit code, and the same as JSON."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import typer

from tests.test_writing import small_files
from tilewright.cli.boundary import command, write_json
from tilewright.errors import CheckError, OutputError, ShapeError

FULL = OSError(errno.ENOSPC, "No space left on device", "/somewhere/file")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ShapeError("a shape is one"), 2, "a shape is one"),
        (CheckError("outputs are wrong"), 1, "outputs are wrong"),
        (MemoryError(), 2, "memory is missing"),
        (RuntimeError("std::bad_alloc"), 2, "memory is missing"),
        (FULL, 2, "the disk is full where /somewhere/file is"),
        (OSError(errno.EMFILE, "Too many open files"), 2, "ulimit -n"),
        (RuntimeError("first line\nsecond line"), 1, "RuntimeError: first line\nthis is a bug in Tilewright"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_each_error_has_a_message_and_an_exit_code(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    says: str,
) -> None:
    @command
    def fail(json_file: Path) -> None:
        raise error

    monkeypatch.delenv("TILEWRIGHT_DEBUG", raising=False)
    report = tmp_path / "r.json"
    with pytest.raises(typer.Exit) as caught:
        fail(json_file=report)
    assert caught.value.exit_code == code
    said = capsys.readouterr().err
    assert says in said
    assert said.count("TILEWRIGHT_DEBUG=1") == said.count("bug") <= 1
    assert says.partition("\n")[0] in json.loads(report.read_text())["error"]["message"]


def test_a_bug_is_in_the_json_file_when_its_traceback_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @command
    def fail(json_file: Path) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setenv("TILEWRIGHT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="a bug"):
        fail(json_file=tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["error"]["type"] == "RuntimeError"


def test_an_interrupt_leaves_a_report_that_is_there(tmp_path: Path) -> None:
    @command
    def report(json_file: Path) -> None:
        write_json(json_file, {"trials": 3})
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit):
        report(json_file=tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == {"trials": 3}


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_json(path, {"trials": 3})
    with (
        small_files(100),
        pytest.raises(OutputError, match=r"the file of --json, .*: File too large; name"),
    ):
        write_json(path, {"trials": list(range(1000))})
    assert json.loads(path.read_text()) == {"trials": 3}
    assert list(tmp_path.iterdir()) == [path]
