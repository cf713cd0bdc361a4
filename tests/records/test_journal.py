"""What a server did not take outlives the command that measured it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.ops.contraction.test_space import task
from tests.records.server import missing, running
from tests.records.test_sqlite import measured
from tilewright.errors import RecordsError
from tilewright.measure.outcome import Measurement
from tilewright.records import open_store
from tilewright.records.fallback import FallbackStore, open_for_tuning
from tilewright.records.journal import Journal
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query
from tilewright.task import Task

URL = "postgresql://me:secret@host/db"
EVERYTHING = Query()


class Server(MemoryStore):
    """A server that nobody reaches for some time."""

    away = True

    def add(self, measurements: Sequence[Measurement]) -> None:
        self._reach()
        super().add(measurements)

    def describe(self, task: Task) -> None:
        self._reach()
        super().describe(task)

    def _reach(self) -> None:
        if self.away:
            raise RecordsError("the server is away; start it")


def test_the_next_command_hands_over_what_a_killed_one_had(tmp_path: Path) -> None:
    described = task("dense 5")
    killed, server = Journal(tmp_path / "pending", URL), MemoryStore()
    store = FallbackStore(Server(), journal=killed)
    store.describe(described)
    store.add([measured("a", 1), measured("a", 2)])
    other = Journal(tmp_path / "pending", URL.replace("secret", "changed"))
    assert other.hand_over(server) == 0  # the command is still alive
    killed.close()  # as the system does at its end
    server.add([measured("a", 1)])  # had arrived, though the answer had not
    assert Journal(tmp_path / "pending", URL + "2").hand_over(server) == 0
    assert other.hand_over(server) == 1
    assert [m.config for m in server.scan(EVERYTHING)] == [measured("a", n).config for n in (1, 2)]
    assert server.tasks() == [described]
    assert list((tmp_path / "pending").iterdir()) == []


def test_a_damaged_file_keeps_no_other_from_the_server(tmp_path: Path) -> None:
    for number in range(2):
        killed = Journal(tmp_path, URL)
        killed.keep([], [measured("a", number)])
        killed.close()
    first, _ = sorted(tmp_path.iterdir())
    (first / "records.db").write_text("no records")
    server = MemoryStore()
    with pytest.raises(RecordsError, match=r"records\.db"):
        Journal(tmp_path, URL).hand_over(server)
    assert len(list(server.scan(EVERYTHING))) == 1
    assert list(tmp_path.iterdir()) == [first]


def test_what_the_server_takes_after_all_is_not_kept(tmp_path: Path) -> None:
    now = 0.0
    server = Server()
    store = FallbackStore(server, clock=lambda: now, journal=Journal(tmp_path, URL))
    store.add([measured("a", 1)])
    assert len(list(tmp_path.iterdir())) == 1
    now = 100.0
    server.away = False
    store.add([measured("a", 2)])
    assert list(tmp_path.iterdir()) == []
    assert [m.config for m in server.scan(EVERYTHING)] == [measured("a", n).config for n in (1, 2)]
    store.close()


def test_without_room_for_it_tuning_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FallbackStore(Server(), journal=Journal(tmp_path / "file" / "pending", URL))
    store.add([measured("a", 1)])
    store.add([measured("a", 2)])
    assert store.kept == 2
    assert "if this command is killed" in store.notes[-1]
    store.close()
    assert "will be forgotten" in store.notes[-1]


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_a_server_that_comes_back_after_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with running() as server:
        url = server.empty()
        store = open_for_tuning(url)
        server.kill()
        store.add([measured("a", 1)])
        store.close()
        assert "kept on this machine until the next command that reaches the records: 1" in store.notes[-1]
        server.start()
        told: list[str] = []
        open_for_tuning(url, told.append).close()
        assert told == ["measurements that the records did not take from earlier commands are in them now: 1"]
        with open_store(url) as opened:
            assert [m.config for m in opened.scan(EVERYTHING)] == [measured("a", 1).config]
