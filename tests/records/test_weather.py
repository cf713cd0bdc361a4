"""Bad weather, as far as it can be made: full disks, read-only files, refused locks, files that vanish or are damaged.

What needs a file system of its own is mounted by root, and skipped for others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.records.test_sqlite import measured
from tilewright.errors import RecordsError, RecordsFormatError
from tilewright.records import open_or_read, open_store
from tilewright.records.fallback import open_for_tuning
from tilewright.records.store import Query

EVERYTHING = Query()
ROOT = Path(__file__).parents[2]


def mounts() -> bool:
    """Whether this process may mount file systems."""
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        os.geteuid() == 0
        and shutil.which("unshare") is not None
        and not subprocess.run(probe, capture_output=True).returncode
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    if not mounts():
        pytest.skip("needs root's right to mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def run(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in another process."""
    start = "import sys\nfrom tests.records.test_sqlite import measured\nfrom tilewright.records import open_store\n"
    return subprocess.run(
        [sys.executable, "-c", start + program, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_full_disk_and_room_again(small_disk: Path) -> None:
    with open_for_tuning(small_disk / "records.db") as store:
        store.add([measured("a", 0)])
        store.settle()
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            file.write(b"x" * 1_000_000)  # as much as there is room for
        store.add([measured("a", index) for index in range(1, 300)])
        assert "make room on the disk" in store.notes[0] or "disk I/O" in store.notes[0]
        assert store.kept == 299
        assert [m.config for m in store.best("t", "a", "contraction/1", 3)] == [(0,), (1,), (2,)]
        ballast.unlink()
        store.settle()
        assert store.notes[1:] == ["the records have all measurements after all"]
    with open_store(small_disk / "records.db") as reopened:
        assert len(list(reopened.scan(EVERYTHING))) == 300


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """As quotas refuse it; also where nobody may mount anything."""
    done = run(
        "import resource\n"
        "from tilewright.records.fallback import open_for_tuning\n"
        "from tilewright.records.store import Query\n"
        "store = open_for_tuning(sys.argv[1], print)\n"
        "store.add([measured('a', 0)])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        "for index in range(20):\n"
        "    store.add([measured('a', 100 * index + number) for number in range(100)])\n"
        "assert len(list(store.scan(Query()))) == 2001\n"
        "store.close()\n",
        tmp_path / "records.db",
    )
    assert done.returncode == 0, done.stderr
    trouble, end = done.stdout.splitlines()
    assert "make room" in trouble
    assert "tuning goes on" in trouble
    assert "in no records and will be forgotten" in end
    with open_store(tmp_path / "records.db") as store:
        assert 1 <= len(list(store.scan(EVERYTHING))) < 2001


def test_a_read_only_file_system(small_disk: Path) -> None:
    where = small_disk / "records.db"
    with open_store(where) as store:
        store.add([measured("a", 0)])
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(RecordsError, match="writable"):
        open_store(where)
    with open_for_tuning(where) as tuning:
        assert "writable" in tuning.notes[0]
        assert "tuning goes on" in tuning.notes[0]
        tuning.add([measured("a", 1)])
        assert list(tuning.scan(EVERYTHING)) == [measured("a", 0), measured("a", 1)]
        tuning.settle()
        assert "1 measurements are in no records" in tuning.notes[1]
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        tuning.add([measured("a", 2)])
    assert tuning.notes[2:] == ["the records have all measurements after all"]
    with open_store(where) as store:
        assert list(store.scan(EVERYTHING)) == [measured("a", index) for index in range(3)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every file")
def test_a_read_only_file_and_directory(tmp_path: Path) -> None:
    where = tmp_path / "records.db"
    with open_store(where) as store:
        store.add([measured("a", 0)])
    where.chmod(0o444)
    for mode in (0o755, 0o555):
        tmp_path.chmod(mode)
        try:
            opened, problem = open_or_read(where)
            with opened:
                assert "writable" in str(problem)
                assert list(opened.scan(EVERYTHING)) == [measured("a", 0)]
        finally:
            tmp_path.chmod(0o755)


def test_reading_only(tmp_path: Path) -> None:
    where = tmp_path / "records?#%.db"
    with open_store(where) as store:
        store.add([measured("a", 0)])
    with open_store(where, writable=False) as store:
        assert list(store.scan(EVERYTHING)) == [measured("a", 0)]
        with pytest.raises(RecordsError, match="writable"):
            store.add([measured("a", 1)])
    with pytest.raises(RecordsError, match="No such file"):
        open_store(tmp_path / "none.db", writable=False)
    assert not (tmp_path / "none.db").exists()


def test_locks_that_are_refused(tmp_path: Path) -> None:
    """As some network mounts refuse them: every fcntl that locks fails with ENOLCK."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "nolocks.c", tmp_path / "nolocks.so"
    source.write_text(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <fcntl.h>\n#include <stdarg.h>\n"
        "#define WRAP(name) int name(int fd, int command, ...) {\\\n"
        "  va_list rest; va_start(rest, command); void *what = va_arg(rest, void *); va_end(rest);\\\n"
        "  if (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK) { errno = ENOLCK; return -1; }\\\n"
        "  return ((int (*)(int, int, void *))dlsym(RTLD_NEXT, #name))(fd, command, what); }\n"
        "WRAP(fcntl)\nWRAP(fcntl64)\n"
    )
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    program = (
        "from tilewright.errors import RecordsError\n"
        "try:\n    open_store(sys.argv[1])\nexcept RecordsError as error:\n    print(error)\n"
    )
    done = run(program, tmp_path / "records.db", LD_PRELOAD=str(library))
    assert done.returncode == 0, done.stderr
    assert "refuses locks (No locks available); name a file on a local disk" in done.stdout


def test_a_file_that_vanishes_and_comes_back(tmp_path: Path) -> None:
    where, away = tmp_path / "records.db", tmp_path / "away.db"
    with open_store(where) as other:
        other.add([measured("a", 0)])
    with open_for_tuning(where) as store:
        store.add([measured("a", 1)])
        where.rename(away)
        store.add([measured("a", 2)])
        assert "have vanished: No such file" in store.notes[0]
        assert not where.exists()  # nothing is made in its place
        shutil.copy(away, where)
        store.settle()
        assert store.notes[1:] == ["the records have all measurements after all"]
    with open_store(where) as reopened:
        assert measured("a", 2) in list(reopened.scan(EVERYTHING))


def test_a_file_that_is_replaced_by_another(tmp_path: Path) -> None:
    where, other = tmp_path / "records.db", tmp_path / "other.db"
    open_store(where).close()
    with open_store(where) as store:
        store.add([measured("a", 0)])
        other.write_text("bookmarks")
        other.replace(where)
        with pytest.raises(RecordsFormatError, match="begins with b'bookmarks'"):
            store.add([measured("a", 1)])
    assert where.read_text() == "bookmarks"


def test_a_file_that_is_damaged_while_tuning(tmp_path: Path) -> None:
    where = tmp_path / "records.db"
    with open_store(where) as store:
        store.add([measured("a", index) for index in range(3000)])
    size = where.stat().st_size
    with open_for_tuning(where) as tuning:
        with where.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        tuning.add([measured("a", 0)])
        assert "restore this one from a copy" in tuning.notes[0]
        assert [m.config for m in tuning.best("t", "a", "contraction/1", 3)] == [(0,)]
        assert list(tuning.scan(EVERYTHING)) == [measured("a", 0)]
    assert "1 measurements are in no records" in tuning.notes[-1]


def test_a_damaged_file_is_an_error_before_tuning(tmp_path: Path) -> None:
    where = tmp_path / "records.db"
    where.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(RecordsFormatError):
        open_for_tuning(where)
    with pytest.raises(RecordsError, match="directory does not exist"):
        open_for_tuning(tmp_path / "none" / "records.db")
