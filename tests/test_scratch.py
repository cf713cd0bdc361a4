"""Temporary files: in one directory that goes with its process, or with the next one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.processes import started
from tilewright.errors import OutputError
from tilewright.scratch import claim, explained, make_folder, scratch


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_everything_temporary_goes_there_and_then_away(base: Path) -> None:
    with scratch() as folder:
        assert folder.parent == base
        with tempfile.NamedTemporaryFile() as file:
            assert Path(file.name).parent == folder
        kept = tempfile.mkdtemp()
        code = "import tempfile; print(tempfile.gettempdir())"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert child.stdout.strip() == str(folder)
    assert not Path(kept).exists()
    assert list(base.iterdir()) == []
    assert os.environ["TMPDIR"] == str(base)
    assert tempfile.gettempdir() == str(base)


def test_an_error_changes_nothing_about_that(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    with pytest.raises(KeyboardInterrupt), scratch():
        raise KeyboardInterrupt
    assert list(base.iterdir()) == []
    assert "TMPDIR" not in os.environ


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(base: Path) -> None:
    code = (
        "import sys, tempfile; from tilewright.scratch import scratch\n"
        "with scratch() as folder:\n"
        "    tempfile.mkdtemp(); print(folder, flush=True); sys.stdin.read()"
    )
    with started([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        assert theirs.parent == base
        (base / "tilewright-other").mkdir()  # not one of these
        with scratch() as ours:
            assert theirs.is_dir()
            assert ours != theirs
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert any(theirs.iterdir())
    with scratch() as ours:
        assert sorted(path.name for path in base.iterdir()) == sorted([ours.name, "tilewright-other"])


def test_a_link_with_such_a_name_is_left_alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("elsewhere")
    (target / "thesis.tex").write_text("ten years of work")
    (base / "tilewright-scratch-x").symlink_to(target)
    with scratch():
        pass
    assert (target / "thesis.tex").exists()


def test_nowhere_to_put_them(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(base / "none"))
    with pytest.raises(OutputError, match="set TMPDIR"), scratch():
        pass


def test_one_claim_at_a_time(base: Path) -> None:
    first = claim(base)
    assert first is not None
    assert claim(base) is None
    os.close(first)
    second = claim(base)
    assert second is not None
    os.close(second)
    with pytest.raises(FileNotFoundError):
        claim(base / "none")


def test_a_folder_belongs_to_its_lock(base: Path) -> None:
    first, lock = make_folder()
    second, other = make_folder()
    assert {first, second} == set(base.iterdir())
    assert lock is not None
    assert other is not None
    os.close(lock)  # as if its process had been killed
    third, last = make_folder()
    assert {second, third} == set(base.iterdir())
    assert last is not None
    os.close(other)
    os.close(last)


def test_a_full_disk_names_the_option_of_the_command(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    elsewhere = tmp_path_factory.mktemp("out")
    assert "make room there, or name another directory with --c" in str(explained(full, "no", elsewhere, option="--c"))
    assert "another directory with TMPDIR" in str(explained(full, "no", base, option="--c"))
