"""Files that replace earlier ones: as a whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tilewright.writing import replace_file


@contextlib.contextmanager
def small_files(most: int) -> Iterator[None]:
    """Files of this process may have so many bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(path: Path, text: str) -> None:
    with replace_file(path) as part:
        part.write_text(text)


def test_a_file_is_new_or_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write(path, "first")
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    write(path, "second")
    assert path.read_text() == "second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["f", "plain"]


@pytest.mark.parametrize("earlier", [True, False])
def test_after_an_error_all_is_as_it_was(earlier: bool, tmp_path: Path) -> None:
    path = tmp_path / "f"
    if earlier:
        path.write_text("earlier")
    with contextlib.suppress(KeyboardInterrupt), replace_file(path) as part:
        part.write_text("half of")
        raise KeyboardInterrupt
    with small_files(1000), pytest.raises(OSError, match="large"):
        write(path, 2000 * "x")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["earlier"] * earlier


def test_a_link_stays_and_the_file_that_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    link, file = tmp_path / "link", tmp_path / "files" / "f"
    link.symlink_to(file)
    for text in ("first", "second"):
        write(link, text)
        assert file.read_text() == text
        assert link.is_symlink()


def test_a_file_with_two_names_keeps_both(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("earlier")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    write(tmp_path / "a", "new")
    assert (tmp_path / "b").read_text() == "new"


def test_what_is_no_file_is_written_in_its_place(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe, "text")
    reader.join(10)
    assert read == ["text"]
    assert pipe.is_fifo()
    write(Path(os.devnull), "text")
    assert Path(os.devnull).is_char_device()
    with pytest.raises(IsADirectoryError):
        write(tmp_path, "text")
    with pytest.raises(FileNotFoundError, match="missing"):
        write(tmp_path / "missing" / "f", "text")


def test_the_standard_output_that_is_a_file_is_not_replaced(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+") as file:
        write(Path(f"/dev/fd/{file.fileno()}"), "text")
        assert file.read() == "text"


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_what_may_not_be_written_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, mode in (("mine", 0o644), ("kept", 0o444)):
        (folder / name).write_text("earlier")
        (folder / name).chmod(mode)
    with pytest.raises(PermissionError):
        write(folder / "kept", "new")
    folder.chmod(0o555)
    write(folder / "mine", "new")  # in its place
    assert {each.name: each.read_text() for each in folder.iterdir()} == {"mine": "new", "kept": "earlier"}
