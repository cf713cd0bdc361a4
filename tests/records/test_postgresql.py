"""What is special to records in PostgreSQL; what all stores have in common is in tests/conformance."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from typer.testing import CliRunner

from tests.records.server import Server, missing, running
from tests.records.test_runs import RUN
from tests.records.test_sqlite import TASK, measured
from tilewright.cli import app
from tilewright.errors import MissingExtraError, RecordsError, RecordsFormatError, RecordsVersionError
from tilewright.records import open_or_read, open_store, schema
from tilewright.records import postgresql as module
from tilewright.records.address import is_url, shorten_address
from tilewright.records.export import read_jsonl
from tilewright.records.overview import Overview
from tilewright.records.store import Query

EVERYTHING = Query()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me@host:5432/db"),
        ("postgresql://host/db?password=secret", "postgresql://host/db"),
        ("postgresql:///db?host=/tmp&passfile=secret", "postgresql:///db"),
        ("postgresql://me:12/secret@[::1]:5432/db", "postgresql://me@[::1]:5432/db"),
        ("postgresql://me:1?secret@host/db", "postgresql://me@host/db"),
        ("postgresql://me:1#secret@host/db", "postgresql://me@host/db"),
        ("postgresql://me:se@cret@host/db", "postgresql://..."),
        ("postgresql://host/db?user=a@b&password=secret", "postgresql://..."),
        ("postgresql://me:secret", "postgresql://..."),
    ],
)
def test_a_password_is_never_shown(url: str, says: str) -> None:
    assert is_url(url)
    assert shorten_address(url) == says
    if says.endswith("..."):
        with pytest.raises(RecordsError, match="not of that form") as raised:
            open_store(url)
        assert "cret" not in str(raised.value)


@pytest.mark.parametrize("name", ["records.db", "a:b", "file:x", "C:/records.db", "postgresql:/x", "a b://c", "://"])
def test_a_file_is_no_url(name: str) -> None:
    assert not is_url(name)
    assert not is_url(Path("postgresql://host/db"))
    assert shorten_address(name) == name


def test_another_kind_of_server() -> None:
    with pytest.raises(RecordsError, match=r"begins with mysql://; a file of such a name is written \./mysql"):
        open_store("mysql://me:secret@host/db")


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"tilewright\[postgresql\]"):
        open_store("postgresql://host/db")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://tester:secret@/records?host=/nowhere", "see that the server runs"),
        ("postgresql://tester:secret@no.invalid/records", "correct the host's name"),
    ],
)
def test_no_server(url: str, says: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(RecordsError, match=says) as raised:
        open_store(url)
    assert "secret" not in str(raised.value)


def test_a_user_or_a_database_that_does_not_exist(postgresql: Server) -> None:
    for url in (postgresql.url(user="nobody"), postgresql.url("nothing")):
        with pytest.raises(RecordsError, match=r"does not exist; make it first"):
            open_store(url)


def test_records_outlive_the_store(postgresql: Server) -> None:
    where = postgresql.empty()
    with open_store(where) as store:
        store.add([measured("a", 1)])
        assert store.where == "postgresql://tester@/postgres"
    with open_store(where) as store:
        store.add([measured("a", 0)])
        assert list(store.scan(EVERYTHING)) == [measured("a", 1), measured("a", 0)]


def test_tables_of_another_application(postgresql: Server) -> None:
    where = postgresql.empty()
    postgresql.execute("CREATE TABLE tasks (title TEXT)", url=where)
    with pytest.raises(RecordsFormatError, match="another application's"):
        open_store(where)
    postgresql.execute("DROP TABLE tasks", url=where)
    with pytest.raises(RecordsError, match="has no records to read"):
        open_store(where, writable=False)
    postgresql.execute("CREATE TABLE tilewright (version TEXT)", url=where)
    with pytest.raises(RecordsFormatError, match="has None"):
        open_store(where)


def test_a_database_of_another_encoding(postgresql: Server) -> None:
    postgresql.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(RecordsError, match=r"stored as UTF-8, but .* is LATIN1"):
        open_store(postgresql.url("latin"))


def test_a_newer_version(postgresql: Server) -> None:
    where = postgresql.empty()
    open_store(where).close()
    postgresql.execute("UPDATE tilewright SET version = 1000", url=where)
    for writable in (True, False):
        with pytest.raises(RecordsVersionError, match="is of version 1000; upgrade Tilewright"):
            open_store(where, writable=writable)


def test_an_older_store_is_migrated_and_loses_nothing(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    where = postgresql.empty()
    with open_store(where) as store:
        store.add([measured("a", 0)])
    newer(monkeypatch, "ALTER TABLE tasks ADD COLUMN colour TEXT")
    for _ in range(2):
        with open_store(where) as store:
            store.describe(TASK)
            assert list(store.scan(EVERYTHING)) == [measured("a", 0)]
    postgresql.execute("SELECT colour FROM tasks", url=where)
    monkeypatch.undo()
    with pytest.raises(RecordsVersionError):
        open_store(where)


def test_a_migration_that_fails_changes_nothing(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    where = postgresql.empty()
    open_store(where).close()
    newer(monkeypatch, "ALTER TABLE tasks ADD COLUMN colour TEXT", "ALTER TABLE nothing ADD COLUMN x TEXT")
    with pytest.raises(RecordsFormatError, match="does not exist"):
        open_store(where)
    monkeypatch.undo()
    open_store(where).close()


def newer(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    """Act as the Tilewright that has one more version of the schema."""
    version = schema.VERSION
    monkeypatch.setitem(schema.MIGRATIONS["postgresql"], version, statements)
    monkeypatch.setattr(schema, "VERSION", version + 1)
    monkeypatch.setattr(module, "VERSION", version + 1)


def test_a_store_of_an_earlier_version_gets_a_table_of_runs(postgresql: Server) -> None:
    where = postgresql.empty()
    open_store(where).close()
    postgresql.execute(f"DROP TABLE {where.rpartition('%3D')[2]}.{schema.runs.name}")
    with open_store(where, writable=False) as store:
        assert list(store.read_runs()) == []
    for count in (1, 2):
        with open_store(where) as store:
            store.add_run(RUN)
            assert list(store.read_runs()) == [RUN] * count
            overview = Overview(store)
            overview.refresh()
            assert (len(overview.runs), overview.networks) == (count, {RUN.network: RUN.tasks})


def test_a_user_who_may_only_read(postgresql: Server) -> None:
    where = postgresql.empty()
    with open_store(where) as store:
        store.add([measured("a", 0)])
    space = where.rpartition("%3D")[2]
    postgresql.execute(
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE reader LOGIN",
        f"GRANT USAGE ON SCHEMA {space} TO reader",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {space} TO reader",
    )
    store, problem = open_or_read(where.replace("tester@", "reader@"))
    with store:
        assert "permission denied" in str(problem)
        assert list(store.scan(EVERYTHING)) == [measured("a", 0)]
        with pytest.raises(RecordsError, match="read-only"):
            store.add([measured("a", 1)])
        postgresql.execute(f"REVOKE SELECT ON {space}.{schema.runs.name} FROM reader")
        assert list(store.read_runs()) == []
        overview = Overview(store)
        overview.refresh()
        assert (len(overview.tasks), overview.runs) == (1, [])
    postgresql.execute("DROP OWNED BY reader", "DROP ROLE reader")


def test_a_writer_that_does_not_end(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    where = postgresql.empty()
    monkeypatch.setattr(module, "_BUSY_MILLISECONDS", 200)
    engine = create_engine(where.replace("postgresql:", "postgresql+psycopg:"))
    with open_store(where) as store, engine.connect() as other:
        other.exec_driver_sql(module._TAKE_TURNS)
        assert list(store.scan(EVERYTHING)) == []
        with pytest.raises(RecordsError, match="another process has held it for too long"):
            store.add([measured("a", 0)])
        other.rollback()
        store.add([measured("a", 0)])
    engine.dispose()


def test_a_server_that_dies_and_comes_back() -> None:
    lack = missing()
    if lack is not None:
        pytest.skip(lack)
    with running() as server, open_store(server.empty()) as store:
        store.add([measured("a", 0)])
        server.kill()
        with pytest.raises(RecordsError):
            store.add([measured("a", 1)])
        server.start()
        # Durable: the server had no time to write anything but its log.
        assert list(store.scan(EVERYTHING)) == [measured("a", 0)]
        store.add([measured("a", 1)])
        assert len(list(store.scan(EVERYTHING))) == 2


def test_the_command_line(postgresql: Server, tmp_path: Path) -> None:
    where, report = postgresql.empty(), tmp_path / "report.json"
    arguments = ["records", "ls", "--records", where, "--json", str(report)]
    empty = CliRunner().invoke(app, arguments)
    assert (empty.exit_code, json.loads(report.read_text())["error"]["type"]) == (2, "RecordsError")
    with open_store(where) as store:
        store.describe(TASK)
        store.add([measured("a", 0)])
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert [entry["count"] for entry in json.loads(report.read_text())["records"]] == [1]
    out = tmp_path / "records.jsonl"
    exported = CliRunner().invoke(app, ["records", "export", "--out", str(out)], env={"TILEWRIGHT_RECORDS": where})
    assert exported.exit_code == 0
    assert list(read_jsonl(out.read_text().splitlines())) == [measured("a", 0)]


def test_names_that_no_database_stores(postgresql: Server) -> None:
    with open_store(postgresql.empty()) as store:
        for key in ("a\0b", "\ud800"):
            assert store.best(key, "a", "contraction/1", 1) == []
            assert list(store.scan(Query(target=key))) == []


def test_best_and_scan_walk_an_index(postgresql: Server) -> None:
    where = postgresql.empty()
    with open_store(where) as store, store._engine.connect() as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")
        for order in ("AND seconds IS NOT NULL ORDER BY seconds, id LIMIT 3", ""):
            query = f"EXPLAIN SELECT * FROM measurements WHERE task = 'a' AND target = 'b' AND template = 'c' {order}"
            plan = "\n".join(row[0] for row in connection.exec_driver_sql(query))
            assert ("Index Scan using measurements_fastest" if order else "measurements_task") in plan
            assert "Sort" not in plan
