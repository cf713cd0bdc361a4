from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tilewright.errors import RecordsError, RecordsFormatError, RecordsVersionError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records import codec, open_store
from tilewright.records.schema import MIGRATIONS, OLDEST_READABLE, VERSION
from tilewright.records.sqlite import APPLICATION_ID
from tilewright.records.store import Query
from tilewright.task import Task

EVERYTHING = Query()
TASK = Task("t", "conv2d 3x3", "contraction", 1e9, "{}")


def measured(writer: str, index: int) -> Measurement:
    return Measurement("t", writer, "contraction/1", (index,), Outcome.OK, (1.0 + index,))


def test_records_outlive_the_store(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        store.add([measured("a", 1)])
    with open_store(str(path)) as store:
        store.add([measured("a", 0)])
        assert list(store.scan(EVERYTHING)) == [measured("a", 1), measured("a", 0)]
    assert [file.name for file in tmp_path.iterdir()] == ["records.db"]


def test_header_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    open_store(path).close()
    connection = sqlite3.connect(path)
    marks = [
        connection.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version", "journal_mode")
    ]
    connection.close()
    assert marks == [APPLICATION_ID, VERSION, "wal"]


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    path.touch()
    with open_store(path) as store:
        assert list(store.scan(EVERYTHING)) == []


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=ro", "a b%20c#?&", "'; --"])
def test_a_name_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with open_store(name) as store:
        store.add([measured("a", 0)])
    assert (tmp_path / name).is_file()
    with open_store(name) as store:
        assert len(list(store.scan(EVERYTHING))) == 1


@pytest.mark.parametrize(
    "content",
    [b"task,seconds\n", b"\x7fELF", b"{}", b"SQLite format 3\0 and then nonsense" * 100, b"SQLite format 3\0"],
)
def test_not_a_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(content)
    with pytest.raises(RecordsFormatError, match=r"records\.db.*name another file"):
        open_store(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mark", [0, 1])
def test_another_applications_database(tmp_path: Path, mark: int) -> None:
    path = tmp_path / "records.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.execute(f"PRAGMA application_id = {mark}")
    connection.close()
    with pytest.raises(RecordsFormatError, match="another application's"):
        open_store(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
    connection.close()


def test_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    open_store(path).close()
    edit(path, f"PRAGMA user_version = {VERSION + 1}")
    edit(path, "CREATE TABLE colours (name TEXT)")
    before = path.read_bytes()
    for writable in (True, False):
        with pytest.raises(RecordsVersionError, match=rf"version {VERSION + 1}; upgrade Tilewright"):
            open_store(path, writable=writable)
    assert path.read_bytes() == before


def old_store(path: Path) -> None:
    """A file as version 1 made it, with a described task and two measurements of it."""
    connection = sqlite3.connect(path)
    connection.executescript(f"""
        PRAGMA journal_mode = WAL;
        CREATE TABLE tasks (
            "key" TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, flop DOUBLE NOT NULL, PRIMARY KEY ("key")
        );
        CREATE TABLE measurements (
            id INTEGER NOT NULL, task TEXT NOT NULL, target TEXT NOT NULL, template TEXT NOT NULL,
            config TEXT NOT NULL, outcome TEXT NOT NULL, repeats TEXT NOT NULL, seconds DOUBLE,
            message TEXT NOT NULL, time DOUBLE NOT NULL, elapsed DOUBLE NOT NULL, PRIMARY KEY (id)
        );
        CREATE INDEX measurements_best ON measurements (task, target, template, seconds) WHERE seconds IS NOT NULL;
        CREATE INDEX measurements_task ON measurements (task, target, template);
        INSERT INTO tasks VALUES ('t', 'conv2d', 'contraction', 1e9);
        INSERT INTO measurements VALUES
            (1, 't', 'a', 'contraction/1', '[0]', 'ok', '[1.0]', 1.0, '', 0.0, 0.0),
            (2, 't', 'a', 'contraction/1', '[1]', 'ok', '[2.0]', 2.0, '', 0.0, 0.0);
        PRAGMA application_id = {APPLICATION_ID};
        PRAGMA user_version = 1;
    """)
    connection.close()


def store_of_version_2(path: Path) -> None:
    """A file as version 2 made it."""
    old_store(path)
    edit(path, "ALTER TABLE tasks ADD COLUMN ir TEXT")
    edit(path, "UPDATE tasks SET ir = '{}'")
    edit(path, "PRAGMA user_version = 2")


OLD = {1: old_store, 2: store_of_version_2}


def layout(path: Path) -> tuple[list[str], list[tuple[str, str, str]]]:
    """The columns and indices of a store."""
    connection = sqlite3.connect(path)
    columns = [
        f"{table}.{row[1]} {row[2]}"
        for table in ("tasks", "measurements")
        for row in connection.execute(f"PRAGMA table_info({table})")
    ]
    indices = connection.execute(
        "SELECT m.name, group_concat(c.name), m.sql LIKE '%WHERE%' FROM sqlite_master m, pragma_index_info(m.name) c "
        "WHERE m.type = 'index' AND m.sql IS NOT NULL GROUP BY m.name ORDER BY m.name"
    ).fetchall()
    connection.close()
    return columns, indices


def version_of(path: Path) -> int:
    connection = sqlite3.connect(path)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return int(version)


@pytest.mark.parametrize("version", OLD)
def test_an_older_store_is_migrated_and_loses_nothing(tmp_path: Path, version: int) -> None:
    path, new = tmp_path / "records.db", tmp_path / "new.db"
    OLD[version](path)
    for _ in range(2):
        with open_store(path) as store:
            assert list(store.scan(EVERYTHING)) == [measured("a", 0), measured("a", 1)]
            assert store.best("t", "a", "contraction/1", 5) == [measured("a", 0), measured("a", 1)]
            assert [(s.name, s.flop, s.count) for s in store.summary()] == [("conv2d", 1e9, 2)]
            assert [task.ir for task in store.tasks()] == ([] if version == 1 else ["{}"])
        assert version_of(path) == VERSION == 3
    with open_store(path) as store:
        store.describe(TASK)
        assert store.tasks() == [TASK]
    open_store(new).close()
    assert layout(path) == layout(new)


def test_every_older_version_has_its_migration_and_its_test() -> None:
    assert set(MIGRATIONS["sqlite"]) == set(OLD) == set(range(1, VERSION))


@pytest.mark.parametrize("version", OLD)
def test_an_older_store_that_may_only_be_read(tmp_path: Path, version: int) -> None:
    path = tmp_path / "records.db"
    OLD[version](path)
    if version < OLDEST_READABLE:
        with pytest.raises(RecordsError, match="version 1 is migrated to version 3 before it is read"):
            open_store(path, writable=False)
    else:
        with open_store(path, writable=False) as store:
            assert store.best("t", "a", "contraction/1", 1) == [measured("a", 0)]
            assert [task.key for task in store.tasks()] == ["t"]
    assert version_of(path) == version


def test_an_older_tilewright_that_has_the_store_open_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    old_store(path)
    older = sqlite3.connect(path)
    assert older.execute("SELECT count(*) FROM tasks").fetchone() == (1,)
    with open_store(path) as store:
        older.execute("INSERT INTO tasks (key, name, kind, flop) VALUES ('u', 'dense', 'contraction', 1.0)")
        older.commit()
        older.close()
        assert store.tasks() == []
        store.describe(Task("u", "dense", "contraction", 1.0, "{}"))
        assert [task.key for task in store.tasks()] == ["u"]


def migrate(path: Path, start: Any, failures: Any) -> None:
    start.wait(60)
    try:
        open_store(path).close()
    except Exception as exc:
        failures.put(repr(exc))
        raise


def test_two_processes_migrate_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for attempt in range(2):
        path = tmp_path / f"records{attempt}.db"
        old_store(path)
        start, failures = context.Barrier(3), context.SimpleQueue()
        openers = [context.Process(target=migrate, args=(path, start, failures)) for _ in range(3)]
        for opener in openers:
            opener.start()
        for opener in openers:
            opener.join(60)
        assert failures.empty()
        assert [opener.exitcode for opener in openers] == [0] * 3
        assert version_of(path) == VERSION


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    old_store(path)
    edit(path, "DROP TABLE tasks")
    with pytest.raises(RecordsFormatError, match="no such table"):
        open_store(path)
    assert version_of(path) == 1


@pytest.mark.parametrize(
    "change",
    [
        "ir = x'00'", "ir = 'zlib:'", "ir = 'zlib:%'", "ir = 'zlib:AAAA'", "ir = 'zlib:eJyrrgUAAXUA'",
        "ir = 'zlib:Ω'", "flop = 'many'", "name = x'ff'",
    ],
)  # fmt: skip
def test_a_row_that_is_no_task(tmp_path: Path, change: str) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        store.describe(TASK)
        edit(path, f"UPDATE tasks SET {change}")
        with pytest.raises(RecordsFormatError, match="task 't': not a task"):
            store.tasks()


def test_an_ir_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path / "records.db") as store:
        store.describe(replace(TASK, ir=" " * 100_000))
        monkeypatch.setattr(codec, "_LARGEST_IR", 99_999)
        with pytest.raises(RecordsFormatError, match="larger than any"):
            store.tasks()


def test_a_long_ir_takes_little_room(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        store.describe(replace(TASK, ir='{"a": 1}' * 10_000))
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT length(ir) FROM tasks").fetchone()[0] < 2000
    connection.close()


def test_a_store_without_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        edit(path, "DROP TABLE measurements")
        with pytest.raises(RecordsFormatError, match="no such table"):
            store.add([measured("a", 0)])


@pytest.mark.parametrize(
    "change",
    [
        "config = 'x'", "config = '{}'", "config = '[1.5]'", "config = '[true]'", "config = '[-1]'", "config = '[[1]]'",
        "config = '[' || replace(hex(zeroblob(3000)), '0', '9') || ']'",
        "config = replace(hex(zeroblob(50000)), '0', '[')",
        "config = x'8004'", "config = 7", "outcome = 'splendid'", "repeats = '[]'", "repeats = '[NaN]'",
        "repeats = '[-1]'",
        "repeats = '[\"1\"]'", "task = ''", "time = 'noon'", "elapsed = -1", "message = 7.5",
    ],
)  # fmt: skip
def test_a_row_that_is_no_measurement(tmp_path: Path, change: str) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        store.add([measured("a", 0), measured("a", 1)])
        edit(path, f"UPDATE measurements SET {change} WHERE id = 2")
        if "message = 7.5" in change:  # the column is text, and SQLite makes it so
            assert [m.message for m in store.scan(EVERYTHING)] == ["", "7.5"]
            return
        with pytest.raises(RecordsFormatError):
            list(store.scan(EVERYTHING))


def edit(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="directory does not exist; make"):
        open_store(tmp_path / "none" / "records.db")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="is a directory; name a file in it"):
        open_store(tmp_path)


def test_a_name_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="name another file"):
        open_store(str(tmp_path / "a\0b"))
    with pytest.raises(RecordsError):
        open_store(tmp_path / ("x" * 300))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a directory that not even root may write to")
def test_an_unwritable_directory() -> None:
    with pytest.raises(RecordsError, match=r"/proc/records\.db cannot be read or written.*writable"):
        open_store("/proc/records.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every file")
def test_an_unwritable_file(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    open_store(path).close()
    path.chmod(0o444)
    with pytest.raises(RecordsError, match="writable"):
        open_store(path)


def test_a_full_disk(tmp_path: Path) -> None:
    with open_store(tmp_path / "records.db") as store:
        store.add([measured("a", 0)])
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        with pytest.raises(RecordsError, match="make room on the disk"):
            store.add([measured("a", index) for index in range(2000)])
        assert list(store.scan(EVERYTHING)) == [measured("a", 0)]


def test_what_was_added_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    program = (
        "import os, signal, sys\n"
        "from tests.records.test_sqlite import measured\n"
        "from tilewright.records import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "store.add([measured('a', index) for index in range(3)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program, path], cwd=root, check=False).returncode == -9
    with open_store(path) as store:
        assert [m.config for m in store.scan(EVERYTHING)] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM measurements WHERE task = ? AND target = ? AND template = ? AND seconds IS NOT NULL "
        "ORDER BY seconds, id",
        "SELECT * FROM measurements WHERE task = ? AND target = ? AND template = ? ORDER BY id",
    ],
)
def test_best_and_scan_walk_an_index(tmp_path: Path, query: str) -> None:
    path = tmp_path / "records.db"
    open_store(path).close()
    connection = sqlite3.connect(path)
    plan = " ".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + query, ("a", "b", "c")))
    connection.close()
    assert "USING INDEX" in plan
    assert "TEMP B-TREE" not in plan


def test_importing_the_package_is_light() -> None:
    program = "import sys, tilewright.records; sys.exit('sqlalchemy' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
