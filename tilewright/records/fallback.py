"""A store for bad weather: tuning goes on when the disk is full, and the measurements are handed over later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tilewright.errors import RecordsError
from tilewright.measure.outcome import Measurement
from tilewright.records import open_or_read, open_store
from tilewright.records.codec import normalise
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query, Store
from tilewright.task import Task

__all__ = ["FallbackStore", "open_for_tuning"]

T = TypeVar("T")

#: After a failure the store is left alone for this many seconds, and for so many times as long as the failure took:
#: one that waits half a minute for a lock shall not take a tenth of the budget.
_LEAST_PAUSE, _PAUSE = 10.0, 10.0


class FallbackStore:
    """A store that keeps in memory what another does not take, and hands it over when it does.

    Reads are served from both. What the other store says is told once, not raised; only an impossible measurement is
    an error here. A failure can leave open whether the other store took something; it is then handed over again, so
    that a measurement may be there twice, but none is missing.

    Args:
        store: the other store. Closed with this one.
        tell: called with each of ``notes`` as it arises.
        reopen: opens the other store for writing, where ``store`` can only be read.
        clock: gives seconds.

    Attributes:
        notes: what went wrong and what came of it, for people.
    """

    def __init__(
        self,
        store: Store,
        tell: Callable[[str], None] | None = None,
        *,
        reopen: Callable[[], Store] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.notes: list[str] = []
        self._store, self._tell, self._reopen, self._clock = store, tell, reopen, clock
        self._measurements: list[Measurement] = []
        self._tasks: dict[str, Task] = {}
        self._next = clock()
        self._cause = ""
        self._late = False
        self._given_up = 0
        self._closed = False

    @property
    def kept(self) -> int:
        """How many measurements are in memory only."""
        return len(self._measurements)

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Keep the measurements, all or none: in the other store, or in memory until it takes them.

        Raises:
            RecordsError: a measurement holds something impossible.
        """
        self._check_open()
        self._measurements += [normalise(measurement) for measurement in measurements]
        self._hand_over()
        self._late = self._late or self.kept > 0

    def best(self, task: str, target: str, template: str, count: int) -> list[Measurement]:
        """The fastest ``count`` OK measurements with different configs, fastest first, the older of equals first."""
        self._check_open()
        memory = MemoryStore()
        memory.add(self._read(lambda: self._store.best(task, target, template, count)))
        memory.add(self._measurements)
        return memory.best(task, target, template, count)

    def scan(self, query: Query) -> Iterator[Measurement]:
        """The measurements that match, in the order they were added; those in memory are the last."""
        self._check_open()
        return self._scan(query)

    def _scan(self, query: Query) -> Iterator[Measurement]:
        memory = MemoryStore()
        memory.add(self._measurements)
        try:
            yield from self._store.scan(query)
        except RecordsError as error:
            self._note_trouble(error)
        yield from memory.scan(query)

    def describe(self, task: Task) -> None:
        """Remember the task behind a key; an empty ``ir`` leaves the one that is known."""
        self._check_open()
        before = self._tasks.get(task.key)
        self._tasks[task.key] = replace(task, ir=task.ir or (before.ir if before else ""))
        self._hand_over()

    def tasks(self) -> list[Task]:
        """The tasks that were described with their ``ir``, ordered by key."""
        self._check_open()
        memory = MemoryStore()
        for task in (*self._read(self._store.tasks), *self._tasks.values()):
            memory.describe(task)
        return memory.tasks()

    def settle(self) -> None:
        """Try once more to hand over what is in memory, and note what came of it.

        What has just been given up is tried again after the pause only, as by :meth:`add`.
        """
        self._check_open()
        known = self._given_up
        if not self.kept == known > 0:
            self._next = self._clock()
        self._hand_over()
        if self.kept == known > 0:
            return
        self._given_up = self.kept
        if self.kept:
            self._note(f"{self.kept} measurements are in no records and will be forgotten: {self._cause}")
        elif self._late:
            self._note("the records have all measurements after all")
            self._late = False

    def close(self) -> None:
        """Hand over what is in memory, if that can be, and close the other store. A second close does nothing."""
        if not self._closed:
            self.settle()
            self._closed = True
            self._measurements.clear()
            self._store.close()

    def __enter__(self) -> FallbackStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _hand_over(self) -> None:
        """Give the other store what is in memory, unless it has just failed."""
        began = self._clock()
        if began < self._next or not (self._measurements or self._tasks):
            return
        try:
            if self._reopen is not None:
                writable = self._reopen()
                self._store.close()
                self._store, self._reopen = writable, None
            for key in list(self._tasks):
                self._store.describe(self._tasks[key])
                del self._tasks[key]
            if self._measurements:
                self._store.add(self._measurements)
                self._measurements = []
        except RecordsError as error:
            self._next = self._clock() + max(_LEAST_PAUSE, _PAUSE * (self._clock() - began))
            self._note_trouble(error)

    def _read(self, read: Callable[[], list[T]]) -> list[T]:
        try:
            return read()
        except RecordsError as error:
            self._note_trouble(error)
            return []

    def _note_trouble(self, error: RecordsError) -> None:
        # Told once: a full disk fails again with every measurement.
        if not self._cause:
            self._note(f"{error}; tuning goes on, and what the records do not take is kept in memory")
        self._cause = str(error)

    def _note(self, text: str) -> None:
        self.notes.append(text)
        if self._tell is not None:
            self._tell(text)

    def _check_open(self) -> None:
        if self._closed:
            raise RecordsError("a store is used before it is closed, but this was closed; open it again")


def open_for_tuning(where: str | Path, tell: Callable[[str], None] | None = None) -> FallbackStore:
    """Open the store at ``where``, or make it, such that nothing that befalls it later ends the tuning.

    A store that can be read but not written is opened too: new measurements stay in memory, and a note says so.

    Args:
        where: a file or a URL, as for :func:`tilewright.records.open_store`.
        tell: called with each note as it arises.

    Raises:
        RecordsFormatError: what is there is not a records store.
        RecordsVersionError: the store was written by a newer Tilewright.
        RecordsError: the store can neither be written nor read.
        MissingExtraError: a URL needs the extra.
    """
    opened, problem = open_or_read(where)
    if problem is None:
        return FallbackStore(opened, tell)
    store = FallbackStore(opened, tell, reopen=lambda: open_store(where))
    store._note_trouble(problem)
    return store
