"""``records merge``, ``records pull`` and ``records push``, in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_cost import call, refused
from tests.records.server import Server
from tests.records.test_sqlite import TASK, edit, measured, old_store
from tilewright.records import open_store
from tilewright.records.merge import merge
from tilewright.records.store import Query
from tilewright.target import Target


def store_of(path: Path, *indices: int, target: str = "a") -> Path:
    with open_store(path) as store:
        store.add([measured(target, index) for index in indices])
        store.describe(replace(TASK, ir=""))
    return path


def configs(place: str | Path) -> list[int]:
    with open_store(place, writable=False) as store:
        return sorted(m.config[0] for m in store.scan(Query()))


def test_merge(tmp_path: Path) -> None:
    one, two = store_of(tmp_path / "1.db", 1, 2), store_of(tmp_path / "2.db", 2, 3, 4)
    edit(two, "UPDATE measurements SET outcome = 'odd' WHERE config = '[4]'")
    before = two.read_bytes()
    own, report = tmp_path / "own.db", tmp_path / "r.json"
    done = call("records", "merge", one, two, "--records", own, "--json", report)
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"{one}: 2 read: 2 new, 0 known, 0 refused; 1 new task\n{two}: 3 read: 1 new, 1 known, 1 refused\n"
    )
    assert done.stderr == "refused: 1 measurement: not a measurement: 'odd' is not a valid Outcome\n"
    assert configs(own) == [1, 2, 3]
    assert two.read_bytes() == before
    result = json.loads(report.read_text())
    assert result["records"] == str(own)
    assert [(entry["from"], entry["new"]) for entry in result["merged"]] == [(str(one), 2), (str(two), 1)]
    assert list(result["merged"][1]["refused"].values()) == [1]
    assert "0 new, 2 known" in call("records", "merge", one, "--records", own).stdout


def test_one_kind_of_machine(tmp_path: Path) -> None:
    here = Target.parse("native")
    other = store_of(tmp_path / "other.db", 1)
    store_of(other, 2, target=here.key)
    store_of(other, 3, target=here.otherwise_timed[0].key)
    for target, found in (("a", [1]), ("native", [2, 3]), ("b", [])):
        own = tmp_path / f"{target}.db"
        done = call("records", "pull", other, "--records", own, "--target", target)
        assert done.exit_code == 0, done.output
        assert f"{3 - len(found)} of other targets" in done.stdout
        assert configs(own) == found


def test_mistakes(tmp_path: Path) -> None:
    own, link, text = store_of(tmp_path / "own.db", 1), tmp_path / "link.db", tmp_path / "text.db"
    link.symlink_to(own)
    text.write_text("not a database")
    (empty := tmp_path / "empty.db").touch()
    records = ["--records", str(own)]
    other = store_of(tmp_path / "other.db", 2)
    refused("does not exist; check the path", "records", "merge", other, tmp_path / "none.db", *records)
    refused("is an SQLite file", "records", "merge", other, text, *records)
    refused("empty.db is empty; name another file", "records", "merge", other, empty, *records)
    refused("into another store", "records", "merge", other, link, *records)
    refused("into another store", "records", "push", link, *records)
    refused("begins with mysql://", "records", "pull", "mysql://me@host/db", *records)
    refused("does not exist; make", "records", "push", tmp_path / "none" / "r.db", *records)
    refused("no such file", "records", "push", other, "--records", tmp_path / "none.db")
    refused("is an SQLite file", "records", "pull", other, "--records", text)
    assert configs(own) == [1]
    assert configs(other) == [2]
    edit(other, "PRAGMA user_version = 1000")
    refused("upgrade Tilewright", "records", "merge", other, *records)


def test_a_store_of_the_first_version(tmp_path: Path) -> None:
    old_store(tmp_path / "old.db")
    done = call("records", "merge", tmp_path / "old.db", "--records", tmp_path / "own.db")
    assert done.exit_code == 0, done.output
    assert "2 new" in done.stdout


def test_an_interrupt_keeps_what_was_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, own = (tmp_path / name for name in ("1.db", "2.db", "own.db"))
    store_of(one, 1, 2)
    store_of(two, 3)

    def merge_or_stop(source: object, *rest: object) -> object:
        if getattr(source, "where", "") == str(two):
            raise KeyboardInterrupt
        return merge(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("tilewright.records.merge.merge", merge_or_stop)
    done = call("records", "merge", one, two, "--records", own)
    assert done.exit_code == 130
    assert "the same command goes on\ninterrupted\n" in done.stderr
    assert configs(own) == [1, 2]


def test_a_damaged_store_does_not_promise_to_go_on(tmp_path: Path) -> None:
    path = store_of(tmp_path / "1.db", *range(3000))
    content = path.read_bytes()
    path.write_bytes(content[:8192] + bytes(len(content) - 8192))
    done = call("records", "merge", path, "--records", tmp_path / "own.db")
    assert done.exit_code == 2
    assert "goes on" not in done.stderr
    assert "restore this one from a copy" in done.stderr


def test_a_server(tmp_path: Path, postgresql: Server) -> None:
    url, here, there = postgresql.empty(), store_of(tmp_path / "here.db", 1, 2), tmp_path / "there.db"
    refused("has no records to read", "records", "pull", url, "--records", here)
    done = call("records", "push", url, "--records", here)
    assert "2 new" in done.stdout, done.output
    done = call("records", "pull", url, "--records", there)
    assert "2 new" in done.stdout, done.output
    assert "tester" in done.stdout
    assert configs(there) == [1, 2]
    refused("into another store", "records", "push", url, "--records", url)
