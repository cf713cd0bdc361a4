"""Merges the records of one store into another: ``tilewright records merge``, ``pull`` and ``push``.

A measurement is known if the other store has one that is equal in every field. So a merge can be repeated, and one that
was interrupted goes on where it was. Records come from anywhere: every field is checked for its type and range, and a
task's function against the grammar of functions. Nothing in them is run. Whether a config belongs to its design space
is checked when a tuning reads it, as with one's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from typing import TypeGuard

from tilewright.errors import RecordsError, SpaceError
from tilewright.measure.outcome import Measurement
from tilewright.records.codec import normalise
from tilewright.records.runs import ReadsRuns
from tilewright.records.store import Group, Query, Refused, Store, TolerantStore
from tilewright.space.recorded import check_recorded
from tilewright.task import Task

__all__ = ["Merged", "check_different", "merge"]

#: The measurements that are added at a time. An interrupt loses at most these, and the next merge adds them.
_BATCH = 1000
#: The number of different reasons for refusals that are kept. A hostile store could have one a row.
_REASONS = 20
_OTHER_REASONS = "for other reasons"
#: The index and the table of a damaged file disagree.
_ELSEWHERE = "a measurement is found under its task, target and template, but this was found under others"
_NO_TIME = "a measurement with a latency took some time, but this took none"


@dataclass
class Merged:
    """What became of the records of a store.

    Attributes:
        read: the number of measurements that were read.
        new: the number of measurements that were added.
        known: the number of measurements that were there already.
        refused: the numbers of rows that are no measurement, by reason.
        left_out: the number of measurements of other targets than those wanted.
        tasks: the number of tasks that were described anew, or whose function was not known before.
        runs: the number of runs that were added.
        refused_tasks: the numbers of tasks, or functions of tasks, that are none, by reason.
    """

    read: int = 0
    new: int = 0
    known: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    tasks: int = 0
    runs: int = 0
    refused_tasks: Counter[str] = field(default_factory=Counter)


def merge(
    source: Store, destination: Store, targets: Collection[str] | None = None, merged: Merged | None = None
) -> Merged:
    """Add the measurements and the runs of ``source`` to ``destination``, and describe the tasks.

    Nothing in ``destination`` is changed, except that a task without a function gets one. A thousand measurements are
    added at a time, and few more are in memory; of the group of one task, target and template that is read, 16 bytes
    for each measurement are in memory. Two merges of the same records at the same moment may add some of them twice.

    Args:
        source: the store to read. A ``TolerantStore`` is read on where a row is damaged.
        destination: the store to write.
        targets: the keys of the targets whose measurements, and whose tasks, are wanted; None: all.
        merged: is counted on, so that the caller knows what was done before an error or an interrupt.

    Returns:
        ``merged``, or a new count.

    Raises:
        RecordsError: the stores are the same, ``source`` cannot be read, or ``destination`` cannot be written. What was
            merged before stays.
    """
    merged = merged if merged is not None else Merged()
    check_different(source, destination)
    given, own = _tolerant(source), _tolerant(destination)
    groups = list(_wanted(given.groups(), targets, merged))
    # A measurement without its task is worth less than a task without measurements, should this be interrupted.
    _merge_tasks(given, own, None if targets is None else [str(group.query.task) for group in groups], merged)
    # One batch takes the measurements of many small groups.
    with closing(_unknown_of_all(groups, given, own, merged)) as new:  # an error leaves no stream open
        while batch := list(islice(new, _BATCH)):
            destination.add(batch)
            merged.new += len(batch)
    if isinstance(source, ReadsRuns) and isinstance(destination, ReadsRuns):
        _merge_runs(source, destination, targets, merged)
    return merged


def check_different(source: Store, destination: Store) -> None:
    """Raise ``RecordsError`` if two stores keep their records in one place."""
    if _tolerant(source).identity() == _tolerant(destination).identity():
        raise RecordsError(
            f"records are merged into another store, but {getattr(source, 'where', 'the store')} is the same as "
            f"{getattr(destination, 'where', 'itself')}; name two stores"
        )


def _wanted(found: Iterable[Group | Refused], targets: Collection[str] | None, merged: Merged) -> Iterator[Group]:
    for group in found:
        if isinstance(group, Refused):
            merged.read += group.count
            _refuse(group, merged.refused)
        elif targets is None or group.query.target in targets:
            yield group
        else:
            merged.left_out += group.count


def _unknown_of_all(
    groups: Iterable[Group], source: TolerantStore, destination: TolerantStore, merged: Merged
) -> Generator[Measurement, None, None]:
    for group in groups:
        yield from _unknown(group.query, source, destination, merged)


def _unknown(query: Query, source: TolerantStore, destination: TolerantStore, merged: Merged) -> Iterator[Measurement]:
    """The measurements of one group that ``destination`` lacks, each once."""
    known = {_digest(found) for found in destination.read(query) if not isinstance(found, Refused)}
    for found in source.read(query):
        merged.read += 1
        if isinstance(found, Refused):
            _refuse(found, merged.refused)
        elif Query(found.task, found.target, found.template) != query:
            _refuse(Refused(_ELSEWHERE), merged.refused)
        elif found.ok and not found.seconds > 0:
            _refuse(Refused(_NO_TIME), merged.refused)
        elif (digest := _digest(found)) in known:
            merged.known += 1
        else:
            known.add(digest)
            yield found


def _digest(measurement: Measurement) -> bytes:
    """Identifies a measurement among those of its task, target and template."""
    m = measurement
    # 0.0 is added because SQLite does not keep the sign of a zero.
    times = [seconds + 0.0 for seconds in (m.time, m.elapsed, *m.repeats)]
    return blake2b(repr((m.config, m.outcome.value, times, m.message)).encode(), digest_size=16).digest()


def _merge_tasks(
    source: TolerantStore, destination: TolerantStore, wanted: Collection[str] | None, merged: Merged
) -> None:
    """Describe the tasks that ``destination`` does not know. A foreign description never replaces one's own."""
    # A character of each function suffices to tell whether it is known.
    known = {
        task.key: replace(task, ir=task.ir[:1]) for task in destination.read_tasks() if not isinstance(task, Refused)
    }
    wanted = None if wanted is None else set(wanted)
    for task in source.read_tasks():
        if isinstance(task, Refused):
            _refuse(task, merged.refused_tasks)
            continue
        own = known.get(task.key)
        if (wanted is not None and task.key not in wanted) or (own is not None and (own.ir or not task.ir)):
            continue
        described = task
        if task.ir:
            try:
                check_recorded(task)
            except SpaceError as error:
                _refuse(Refused(str(error)), merged.refused_tasks)
                described = replace(task, ir="")
        if own is None or described.ir:
            destination.describe(described if own is None else replace(own, ir=described.ir))
            merged.tasks += 1


def _merge_runs(source: ReadsRuns, destination: ReadsRuns, targets: Collection[str] | None, merged: Merged) -> None:
    """Add the runs that ``destination`` does not know. No two runs of a network on a target end at the same time."""
    known = {(run.network, run.target, run.time) for run in destination.read_runs()}
    for run in source.read_runs():
        key = (run.network, run.target, run.time)
        if key not in known and (targets is None or run.target in targets):
            known.add(key)
            destination.add_run(run)
            merged.runs += 1


def _refuse(refused: Refused, reasons: Counter[str]) -> None:
    kept = refused.reason in reasons or len(reasons) < _REASONS
    reasons[refused.reason if kept else _OTHER_REASONS] += refused.count


def _tolerant(store: Store) -> TolerantStore:
    return store if _is_tolerant(store) else _Scanned(store)


def _is_tolerant(store: Store) -> TypeGuard[TolerantStore]:
    return all(hasattr(store, name) for name in ("groups", "read", "read_tasks", "identity"))


class _Scanned:
    """A ``TolerantStore`` of what any ``Store`` offers, which reads it twice and ends at a damaged row."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.add, self.best, self.scan = store.add, store.best, store.scan
        self.describe, self.tasks, self.close = store.describe, store.tasks, store.close

    def groups(self) -> list[Group | Refused]:
        counts = Counter(Query(m.task, m.target, m.template) for m in self._store.scan(Query()))
        return [Group(query, count) for query, count in counts.items()]

    def read(self, query: Query) -> Iterator[Measurement | Refused]:
        for found in self._store.scan(query):
            try:
                checked: Measurement | Refused = normalise(found)
            except RecordsError as error:
                checked = Refused(str(error))
            yield checked

    def read_tasks(self) -> Iterator[Task | Refused]:
        return iter(self._store.tasks())

    def identity(self) -> object:
        return self._store
