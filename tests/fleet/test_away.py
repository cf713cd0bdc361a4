"""A tuning on a node of another kind: its files, its records, and what becomes of it when the node goes."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from tests.fleet.here import HereCrew, toy_fleet
from tests.tuning.replay import TARGET
from tilewright.errors import FleetError, MeasureError, OutputError
from tilewright.executable.manifest import WEIGHTS
from tilewright.fleet.away import Away, Errand, PostLostError
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.head_store import note_records
from tilewright.fleet.outpost import Outpost
from tilewright.fleet.wire import kind_of
from tilewright.interrupts import watching
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query

KIND = kind_of(TARGET)


class HerePost(Outpost):
    """An outpost of this process. Its node goes after ``pulled`` questions for messages: ``lose`` says so."""

    def __init__(self, pulled: float, lose: Callable[[], None]) -> None:
        super().__init__(1)
        self.pulled, self.lose = pulled, lose

    def address(self) -> str:
        return "here"

    def collect(self, after: int, wait: float) -> list[tuple[int, object]]:
        self.pulled -= 1
        if self.pulled < 0:
            self.lose()
            raise PostLostError("its plug was pulled")
        return super().collect(after, wait)


@dataclass
class Head:
    """What the head does with a job of ``tests.fleet.job``, and what it hears."""

    folder: Path
    measurements: int = 5
    dies: list[int] = field(default_factory=list)
    spoils: bool = False
    waits: bool = False
    pulled: float = math.inf
    store: MemoryStore = field(default_factory=MemoryStore)
    heard: list[tuple[str, object]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    on_hearing: Callable[[object], None] = lambda value: None

    def hear(self, word: str, value: object) -> object | None:
        answer = note_records(self.store, word, value)
        if word not in ("add", "describe", "ask"):
            self.heard.append((word, value))
            self.kept.append(len(list(self.store.scan(Query()))))
            self.on_hearing(value)
        return answer

    def message(self, address: str) -> object:
        dies = self.dies.pop(0) if self.dies else 0
        self.asked.append(address)
        return {"measurements": self.measurements, "dies": dies, "spoils": self.spoils, "waits": self.waits}

    def run(self, fleet: Fleet) -> bool:
        crew = cast("HereCrew", fleet.crew)
        weights = self.folder / "weights"
        weights.write_bytes(bytes(range(256)) * 40_000)  # 10 MB are sent in two pieces
        out = self.folder / "out"
        out.mkdir()

        def hire(node: str, cores: int) -> HerePost:
            pulled, self.pulled = self.pulled, math.inf
            return HerePost(pulled, lambda: crew.lose(node))

        files = {"model/weights": weights}
        errand = Errand("tests.fleet.job", files, self.message, self.hear, "report", "failed", "out")
        return Away(fleet, KIND, hire).run(errand, out)

    @property
    def came_back(self) -> bool:
        return (self.folder / "out" / WEIGHTS).read_bytes() == (self.folder / "weights").read_bytes()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with toy_fleet("one", "two") as (made, _):
        yield made


def test_a_node_does_the_job_and_the_head_keeps_the_records(fleet: Fleet, tmp_path: Path) -> None:
    head = Head(tmp_path)
    assert head.run(fleet)
    assert head.heard == [*(("state", n) for n in range(1, 6)), ("report", 3)]
    assert head.kept == [1, 2, 3, 4, 5, 5]  # what is reported was kept before
    assert head.came_back
    assert head.asked == ["here"]


@pytest.mark.parametrize(("dies", "pulled"), [([3], math.inf), ([], 2.0)])
def test_a_job_that_is_lost_begins_again_from_the_records(
    dies: list[int], pulled: float, fleet: Fleet, tmp_path: Path
) -> None:
    lines: list[str] = []
    fleet.tell = lines.append
    head = Head(tmp_path, dies=dies, pulled=pulled)
    assert head.run(fleet)
    assert "; it begins again" in lines[0]
    assert len(head.asked) == 2
    found = [m.config for m in head.store.scan(Query())]
    assert sorted(set(found)) == [(n,) for n in range(5)]
    if dies:  # what it said before it died has arrived
        assert found == [(n,) for n in range(5)]
    assert head.came_back


def test_a_job_that_is_lost_again_and_again_is_an_error(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="its process ended: exit code 3"):
        Head(tmp_path, dies=[1, 2, 3]).run(fleet)


def test_an_interrupt_reaches_the_job(fleet: Fleet, tmp_path: Path) -> None:
    def interrupt(value: object) -> None:
        if value == "waiting":
            signal.raise_signal(signal.SIGINT)

    head = Head(tmp_path, waits=True, on_hearing=interrupt)
    with watching():
        assert not head.run(fleet)
    assert head.heard[-1] == ("failed", "interrupted")


def test_a_second_interrupt_ends_the_command(fleet: Fleet, tmp_path: Path) -> None:
    def interrupt(value: object) -> None:
        if value == "waiting":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with watching(), pytest.raises(KeyboardInterrupt):
        Head(tmp_path, waits=True, on_hearing=interrupt).run(fleet)


def test_an_executable_that_was_changed_on_its_way_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its checksum differs"):
        Head(tmp_path, spoils=True).run(fleet)


def test_an_outpost_keeps_to_its_folder_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    post, threads = Outpost(1), threading.active_count()
    with pytest.raises(MeasureError, match=r"the files of a job are in its folder, but '\.\./x' is not"):
        post.write("../x", b"")
    post.write("model/weights", b"abc")
    post.write("model/weights", b"def")
    assert post.files("model") == [("weights", 6)]
    assert post.read("model/weights", 2, 3) == b"cde"
    post.interrupt()  # nothing runs
    post.close()
    post.close()
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() <= threads
