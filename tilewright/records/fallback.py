"""A store that keeps measurements in memory while another store fails, and hands them over later."""

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
from tilewright.records.address import is_url
from tilewright.records.codec import normalise
from tilewright.records.journal import Journal, find_journals
from tilewright.records.memory import MemoryStore
from tilewright.records.runs import KeepsRuns, RunRecord
from tilewright.records.store import Query, Store
from tilewright.task import Task

__all__ = ["FallbackStore", "open_for_tuning", "use_records"]

Result = TypeVar("Result")

#: The least pause after a failure of the other store, in seconds.
_LEAST_PAUSE = 1.0
#: The pause after a failure, as a multiple of the time that the failure took. A store that waits half a minute for a
#: lock then takes at most a tenth of the time.
_PAUSE = 10.0


class FallbackStore:
    """A store that keeps in memory what another store refuses, and hands it over when the other store works again.

    Reads are answered from both. Errors of the other store are noted once and not raised; only an impossible
    measurement is an error here. After some failures it is unknown whether the other store took a measurement. Such
    measurements are handed over again: one may be stored twice, but none is lost.

    Args:
        store: the other store. It is closed with this one.
        tell: is called with each new note.
        reopen: opens the other store for writing, if ``store`` can only be read.
        clock: gives seconds.
        journal: where measurements are written down that are only in memory, should this process be killed.

    Attributes:
        notes: what went wrong and what followed, for people.
    """

    def __init__(
        self,
        store: Store,
        tell: Callable[[str], None] | None = None,
        *,
        reopen: Callable[[], Store] | None = None,
        clock: Callable[[], float] = time.monotonic,
        journal: Journal | None = None,
    ) -> None:
        self.notes: list[str] = []
        self._store, self._tell, self._reopen, self._clock = store, tell, reopen, clock
        self._journal, self._written = journal, 0
        self._measurements: list[Measurement] = []
        self._tasks: dict[str, Task] = {}
        self._runs: list[RunRecord] = []
        self._next = clock()
        self._cause = ""
        self._late = False
        self._given_up = 0
        self._closed = False

    @property
    def kept(self) -> int:
        """The number of measurements that are only in memory."""
        return len(self._measurements)

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Keep all measurements, or none: in the other store, or in memory until the other store takes them.

        Raises:
            RecordsError: a measurement has an impossible field.
        """
        self._check_open()
        self._measurements += [normalise(measurement) for measurement in measurements]
        self._hand_over()
        self._write_down()
        self._late = self._late or self.kept > 0

    def best(self, task: str, target: str, template: str, count: int) -> list[Measurement]:
        """The fastest ``count`` OK measurements with different configs, fastest first, the older of equals first."""
        self._check_open()
        memory = MemoryStore()
        memory.add(self._read(lambda: self._store.best(task, target, template, count)))
        memory.add(self._measurements)
        return memory.best(task, target, template, count)

    def scan(self, query: Query) -> Iterator[Measurement]:
        """The measurements that match, in the order they were added. Those in memory come last."""
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
        """Keep the task of a key. An empty ``ir`` does not replace a known one."""
        self._check_open()
        before = self._tasks.get(task.key)
        self._tasks[task.key] = replace(task, ir=task.ir or (before.ir if before else ""))
        self._hand_over()

    def add_run(self, run: RunRecord) -> None:
        """Keep a run: in the other store, or in memory until the other store takes it. Stores may keep none."""
        self._check_open()
        self._runs.append(run)
        self._hand_over()

    def tasks(self) -> list[Task]:
        """The tasks with a known ``ir``, ordered by key."""
        self._check_open()
        memory = MemoryStore()
        for task in (*self._read(self._store.tasks), *self._tasks.values()):
            memory.describe(task)
        return memory.tasks()

    def settle(self) -> None:
        """Hand over what is in memory, and note the result.

        Measurements that were just given up are tried again only after the pause, as in :meth:`add`.
        """
        self._check_open()
        known = self._given_up
        if not self.kept == known > 0:
            self._next = self._clock()
        self._hand_over()
        if self.kept == known > 0:
            return
        self._given_up = self.kept
        if self.kept and self._journal is not None and self._written == self.kept:
            self._note(
                "measurements that the records did not take are kept on this machine until the next command that "
                f"reaches the records: {self.kept}; {self._cause}"
            )
        elif self.kept:
            self._note(f"{self.kept} measurements are in no records and will be forgotten: {self._cause}")
        elif self._late:
            self._note("the records have all measurements after all")
            self._late = False

    def close(self) -> None:
        """Hand over what the other store takes, and close that store. A second close does nothing."""
        if not self._closed:
            self.settle()
            self._closed = True
            self._measurements.clear()
            if self._journal is not None:
                self._journal.close()
            self._store.close()

    def __enter__(self) -> FallbackStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _hand_over(self) -> None:
        """Hand over what is in memory, unless the other store has just failed."""
        began = self._clock()
        if began < self._next or not (self._measurements or self._tasks or self._runs):
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
            if self._journal is not None and self._written:
                self._journal.clear()
                self._written = 0
            while self._runs:
                if isinstance(self._store, KeepsRuns):
                    self._store.add_run(self._runs[0])
                del self._runs[0]
        except RecordsError as error:
            self._next = self._clock() + max(_LEAST_PAUSE, _PAUSE * (self._clock() - began))
            self._note_trouble(error)

    def _recover(self, journal: Journal) -> None:
        """Hand over what commands that were killed have written down."""
        try:
            count = journal.hand_over(self._store)
        except RecordsError as error:
            self._note(f"what earlier commands kept for the records stays in files of this machine: {error}")
        else:
            if count:
                self._note(f"measurements that the records did not take from earlier commands are in them now: {count}")

    def _write_down(self) -> None:
        """Write down what is only in memory, and was not written down before."""
        new = self._measurements[self._written :]
        if self._journal is None or not new:
            return
        try:
            self._journal.keep(list(self._tasks.values()), new)
            self._written = self.kept
        except RecordsError as error:
            self._journal = None
            self._note(f"{error}; if this command is killed, what the records have not taken is lost")

    def _read(self, read: Callable[[], list[Result]]) -> list[Result]:
        try:
            return read()
        except RecordsError as error:
            self._note_trouble(error)
            return []

    def _note_trouble(self, error: RecordsError) -> None:
        # Only the first failure is noted, because a full disk fails with every measurement.
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
    """Open the store at ``where``, or make it, so that no later failure of the store ends the tuning.

    A store that can only be read is opened too. New measurements then stay in memory, and a note says so.

    Args:
        where: a file or a URL, as for :func:`tilewright.records.open_store`.
        tell: is called with each new note.

    Raises:
        RecordsFormatError: what is there is not a records store.
        RecordsVersionError: the store was written by a newer Tilewright.
        RecordsError: the store can neither be written nor read.
        MissingExtraError: a URL needs the extra ``postgresql``.
    """
    opened, problem = open_or_read(where)
    folder = find_journals() if is_url(where) else None
    journal = Journal(folder, str(where)) if folder is not None else None
    if problem is None:
        store = FallbackStore(opened, tell, journal=journal)
        if journal is not None:
            store._recover(journal)
        return store
    store = FallbackStore(opened, tell, reopen=lambda: open_store(where), journal=journal)
    store._note_trouble(problem)
    return store


def use_records(records: str | Path | Store | None) -> tuple[FallbackStore, bool]:
    """The store of a tuning, and whether it is ours to close.

    Args:
        records: a store, where one is, or None: one in memory.

    Raises:
        RecordsError: the store cannot be opened.
    """
    if records is None:
        return FallbackStore(MemoryStore()), True
    if isinstance(records, str | Path):
        return open_for_tuning(records), True
    return (records if isinstance(records, FallbackStore) else FallbackStore(records)), False
