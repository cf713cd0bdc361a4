"""Tuning goes on without its records: what is kept, what is said, and when it is handed over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from tests.records.test_sqlite import TASK, measured
from tilewright.errors import RecordsError
from tilewright.measure.outcome import Measurement
from tilewright.records.fallback import FallbackStore
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query

EVERYTHING = Query()


class Weather:
    """A store that fails on demand, slowly, and counts how often it was asked to write."""

    def __init__(self) -> None:
        self.store, self.now = MemoryStore(), 0.0
        self.writable, self.readable = True, True
        self.asked, self.patience = 0, 0.0
        self.close, self.describe = self.store.close, self.store.describe

    def add(self, measurements: Sequence[Measurement]) -> None:
        self.asked += 1
        self.now += self.patience
        if not self.writable:
            raise RecordsError(f"refusal {self.asked}; make room")
        self.store.add(measurements)

    def best(self, *arguments: object) -> list[Measurement]:
        self._read()
        return self.store.best(*arguments)  # type: ignore[arg-type]

    def scan(self, query: Query) -> Iterator[Measurement]:
        for measurement in self.store.scan(query):
            yield measurement
            self._read()

    def tasks(self) -> list[object]:
        self._read()
        return list(self.store.tasks())

    def _read(self) -> None:
        if not self.readable:
            raise RecordsError("the disk image is malformed; restore it")


@pytest.fixture
def weather() -> Weather:
    return Weather()


@pytest.fixture
def store(weather: Weather) -> FallbackStore:
    told: list[str] = []
    store = FallbackStore(weather, told.append, clock=lambda: weather.now)  # type: ignore[arg-type]
    assert store.notes == told
    return store


def best(store: FallbackStore) -> list[tuple[int, ...]]:
    return [m.config for m in store.best("t", "a", "contraction/1", 10)]


def test_in_good_weather_it_is_not_there(weather: Weather, store: FallbackStore) -> None:
    store.add([measured("a", 1)])
    store.describe(TASK)
    assert (list(weather.store.scan(EVERYTHING)), weather.store.tasks()) == ([measured("a", 1)], [TASK])
    store.close()
    assert (store.notes, store.kept) == ([], 0)


def test_what_is_refused_is_kept_found_and_handed_over_in_order(weather: Weather, store: FallbackStore) -> None:
    store.add([measured("a", 2)])
    weather.writable = False
    store.add([measured("a", 1)])
    store.add([measured("a", 0), replace(measured("a", 2), repeats=(9.0,))])
    assert store.kept == 3
    assert best(store) == [(0,), (1,), (2,)]
    assert [m.config for m in store.scan(EVERYTHING)] == [(2,), (1,), (0,), (2,)]
    assert list(weather.store.scan(EVERYTHING)) == [measured("a", 2)]
    weather.writable = True
    weather.now += 60
    store.add([measured("a", 3)])
    assert store.kept == 0
    assert [m.config for m in weather.store.scan(EVERYTHING)] == [(2,), (1,), (0,), (2,), (3,)]


def test_trouble_is_told_once_and_its_end_too(weather: Weather, store: FallbackStore) -> None:
    weather.writable = False
    for index in range(5):
        store.add([measured("a", index)])
        weather.now += 60
    assert store.notes == ["refusal 1; make room; tuning goes on, and what the records do not take is kept in memory"]
    weather.writable = True
    store.settle()
    assert store.notes[1:] == ["the records have all measurements after all"]
    store.close()
    assert len(store.notes) == 2


def test_what_is_lost_is_told_and_not_tried_twice(weather: Weather, store: FallbackStore) -> None:
    weather.writable = False
    store.add([measured("a", 0), measured("a", 1)])
    store.settle()
    store.settle()
    store.close()
    store.close()
    assert weather.asked == 2
    assert store.notes[1:] == ["2 measurements are in no records and will be forgotten: refusal 2; make room"]


def test_what_was_given_up_is_handed_over_when_the_weather_is_fine_again(
    weather: Weather, store: FallbackStore
) -> None:
    weather.writable = False
    store.add([measured("a", 0)])
    store.settle()
    weather.writable = True
    weather.now += 100.0
    store.settle()
    assert [m.config for m in weather.store.scan(EVERYTHING)] == [(0,)]
    assert store.notes[-1] == "the records have all measurements after all"


def test_it_is_not_asked_all_the_time(weather: Weather, store: FallbackStore) -> None:
    weather.writable, weather.patience = False, 30.0  # as long as another process's lock is waited for
    for index in range(600):
        store.add([measured("a", index)])
        weather.now += 1
    assert weather.asked == 2
    assert store.kept == 600
    weather.writable = True
    store.settle()
    assert store.kept == 0


def test_the_impossible_is_an_error_still(weather: Weather, store: FallbackStore) -> None:
    weather.writable = False
    with pytest.raises(RecordsError, match="times are finite"):
        store.add([measured("a", 0), replace(measured("a", 1), elapsed=-1.0)])
    assert (store.kept, weather.asked) == (0, 0)


def test_reads_that_fail_are_served_from_memory(weather: Weather, store: FallbackStore) -> None:
    store.add([measured("a", 0), measured("a", 5)])
    weather.writable = weather.readable = False
    store.add([measured("a", 1)])
    assert best(store) == [(1,)]
    assert [m.config for m in store.scan(EVERYTHING)] == [(0,), (1,)]  # what was read before it failed
    assert store.tasks() == []
    assert len(store.notes) == 1


def test_tasks_are_kept_too(weather: Weather, store: FallbackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.describe(TASK)

    def refuse(task: object) -> None:
        raise RecordsError("no")

    monkeypatch.setattr(weather, "describe", refuse)
    store.describe(replace(TASK, name="a better name", ir=""))
    store.describe(replace(TASK, key="u"))
    store.describe(replace(TASK, key="u", ir="", flop=7.0))
    expected = [replace(TASK, name="a better name"), replace(TASK, key="u", flop=7.0)]
    assert store.tasks() == expected
    assert weather.store.tasks() == [TASK]
    monkeypatch.undo()
    store.settle()
    assert weather.store.tasks() == store.tasks() == expected


def test_a_scan_does_not_see_what_is_handed_over_twice(weather: Weather, store: FallbackStore) -> None:
    store.add([measured("a", 0)])
    weather.writable = False
    store.add([measured("a", 1)])
    scan = store.scan(EVERYTHING)
    weather.writable = True
    store.settle()
    assert [m.config for m in scan] == [(0,), (1,)]


def test_an_interrupt_while_handing_over_loses_nothing(
    weather: Weather, store: FallbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(measurements: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(weather, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.add([measured("a", 0)])
    monkeypatch.undo()
    store.close()
    assert weather.asked == 1


def test_reopening_for_writing(weather: Weather) -> None:
    readable = MemoryStore()
    readable.add([measured("a", 7)])
    weather.store.add([measured("a", 7)])
    refused = [RecordsError("the file is read-only; make it writable")]

    def reopen() -> Weather:
        if refused:
            raise refused.pop()
        return weather

    store = FallbackStore(readable, reopen=reopen, clock=lambda: weather.now)  # type: ignore[arg-type]
    store.add([measured("a", 0)])
    assert best(store) == [(0,), (7,)]
    weather.now += 60
    store.add([measured("a", 1)])
    assert store.kept == 0
    assert best(store) == [(0,), (1,), (7,)]
    with pytest.raises(RecordsError, match="closed"):
        readable.tasks()
