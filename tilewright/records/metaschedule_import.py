"""Imports MetaSchedule's records as measurements of the *auto* space.

The files may come from anywhere. They are read line by line within bounds, as JSON, and TVM gets nothing of them: its
reader of functions crashes on a damaged one. A function is recognised by its hash as that of a known task. A trace is
recognised by its text as that of a program of the task's space.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tilewright.errors import RecordsError, SpaceError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.ops.generic.space import AutoSpace
from tilewright.ops.generic.stored_trace import TraceReader
from tilewright.records.codec import LONGEST, shorten
from tilewright.records.metaschedule import RECORDS, WORKLOADS, workload_module
from tilewright.records.store import Query, Store
from tilewright.space.recorded import check_recorded
from tilewright.target import Target
from tilewright.task import Task

__all__ = ["Read", "read_metaschedule"]

#: The most bytes of a line. A function of a network has some 50 kB, a record 10 kB, and up to 20 times that in Python.
_LONGEST_WORKLOAD, _LONGEST_RECORD = 1 << 24, 1 << 20
#: A function's line: its hash, and its text for TVM.
_WORKLOAD = re.compile(rb'\s*\[\s*"([0-9]{1,20})"\s*,\s*"[^"]*"\s*\]\s*')
#: The number of faulty lines that are described. The others are counted.
_DESCRIBED = 20
#: The number of measurements that are added at a time.
_BATCH = 500
#: The values of TVM's OpPatternKind. MetaSchedule keeps this attribute on functions with which nothing was fused.
_PATTERNS = range(9)

#: The reasons for which a record is passed over.
_UNKNOWN = "its function is that of no known task"
_FAILED = "it failed, or was not measured"
_ELSEWHERE = "it was measured on another target"
_TWICE = "it is in the records already"


@dataclass(frozen=True)
class Read:
    """What became of a database's records.

    Attributes:
        records: the number of records.
        added: the number of records that were added as measurements.
        tasks: the number of tasks of the added measurements.
        passed_over: the numbers of records that were not added, by reason.
        faulty: the number of lines that hold no record, or no function.
        faults: descriptions of the first of these lines, with file and line number.
    """

    records: int
    added: int
    tasks: int
    passed_over: Mapping[str, int]
    faulty: int
    faults: tuple[str, ...]


def read_metaschedule(folder: Path, store: Store, tasks: Iterable[Task], target: Target) -> Read:
    """Add the records of the database in ``folder`` to ``store``, as measurements of the *auto* space.

    Args:
        folder: a directory with ``database_workload.json`` and ``database_tuning_record.json``. A faulty line, or a
        last
            line that was cut off, does not affect the others.
        store: takes the measurements and their tasks.
        tasks: the tasks that are recognised, such as ``store.tasks()``.
        target: the machine of the records, which do not name theirs. Records for another CPU or another number of cores
            are passed over.

    Raises:
        RecordsError: a file cannot be read, or the store cannot be written.
    """
    reader = _Reader(store, target)
    added: Counter[str] = Counter()
    try:
        with (folder / WORKLOADS).open("rb") as functions, (folder / RECORDS).open("rb") as records:
            workloads = _workloads(functions, _hashes(tasks), reader)
            made = os.fstat(records.fileno()).st_mtime
            measurements = reader.measurements(_lines(records, _LONGEST_RECORD), workloads, made)
            while batch := list(itertools.islice(measurements, _BATCH)):
                for key in {measurement.task for measurement in batch} - added.keys():
                    store.describe(reader.tasks[key])
                store.add(batch)
                added.update(measurement.task for measurement in batch)
    except OSError as exc:
        raise RecordsError(
            f"a database of MetaSchedule's is a directory with {WORKLOADS} and {RECORDS}, but "
            f"{exc.filename or folder} cannot be read: {exc.strerror}; check the path"
        ) from exc
    passed_over = dict(reader.passed_over.most_common())
    return Read(reader.records, added.total(), len(added), passed_over, reader.faulty, tuple(reader.faults))


def _workloads(file: BinaryIO, known: Mapping[str, Task], reader: _Reader) -> dict[int, Task]:
    """The tasks of the functions in a file, by line number from 0."""
    found = {}
    for number, line in enumerate(_lines(file, _LONGEST_WORKLOAD)):
        match = _WORKLOAD.fullmatch(line)
        if match is None:
            reader.fault(WORKLOADS, number, f"expected a function with its hash, found {shorten(line[:100])}", line)
        elif match[1].decode() in known:
            found[number] = known[match[1].decode()]
    return found


def _hashes(tasks: Iterable[Task]) -> dict[str, Task]:
    """The tasks by MetaSchedule's hashes of their functions, with each of the patterns and without a pattern."""
    from tvm.ir import IRModule
    from tvm_ffi import structural_hash

    found: dict[str, Task] = {}
    for task in tasks:
        try:
            check_recorded(task)
            main = workload_module(task)["main"]
        except SpaceError:
            continue  # damaged, or of another version of TVM
        for function in (main, *(main.with_attr("op_pattern", pattern) for pattern in _PATTERNS)):
            found[str(structural_hash(IRModule({"main": function})) & (1 << 64) - 1)] = task
    return found


class _Reader:
    """Turns records into measurements, and counts the records that it cannot use."""

    def __init__(self, store: Store, target: Target) -> None:
        self.records = self.faulty = 0
        self.faults: list[str] = []
        self.passed_over: Counter[str] = Counter()
        self.tasks: dict[str, Task] = {}
        self._store, self._target = store, target
        self._traces: dict[str, TraceReader] = {}
        # The configs and repeats that the store has of each task.
        self._stored: dict[str, set[tuple[tuple[int, ...], tuple[float, ...]]]] = {}

    def fault(self, file: str, number: int, problem: str, line: bytes) -> None:
        """Note a faulty line; ``number`` counts from 0."""
        self.faulty += 1
        if len(self.faults) < _DESCRIBED:
            end = "" if line.endswith(b"\n") else " (cut off at its end)"
            self.faults.append(f"{file}, line {number + 1}{end}: {problem}")

    def measurements(self, lines: Iterable[bytes], workloads: Mapping[int, Task], made: float) -> Iterator[Measurement]:
        """The measurements among the records of ``workloads``, made at the POSIX time ``made``."""
        for number, line in enumerate(lines):
            try:
                record = _record(line)
                self.records += 1
                yield self._measurement(record, workloads, made)
            except SpaceError as exc:
                self.passed_over[str(exc)] += 1
            # Bytes that are no text or a number of 5,000 digits raise the first, ten thousand opening brackets the
            # second.
            except (ValueError, RecursionError) as exc:
                self.fault(RECORDS, number, str(exc)[:300], line)

    def _measurement(self, record: _Record, workloads: Mapping[int, Task], made: float) -> Measurement:
        if not record.seconds:
            raise SpaceError(_FAILED)
        task = workloads.get(record.workload)
        if task is None:
            raise SpaceError(_UNKNOWN)
        if not self._fits(record.target):
            raise SpaceError(_ELSEWHERE)
        row = self._reader(task).config(record.instructions, record.decisions)
        config = tuple(int(index) for index in row)
        stored = self._stored[task.key]
        if (config, record.seconds) in stored:
            raise SpaceError(_TWICE)
        stored.add((config, record.seconds))
        return Measurement(
            task.key, self._target.key, AutoSpace.template, config, Outcome.OK, record.seconds, time=made
        )

    def _fits(self, target: object) -> bool:
        """Whether a target in JSON is the machine, as far as the JSON tells."""
        wanted = {"kind": "llvm", "mcpu": self._target.mcpu, "num-cores": self._target.cores}
        return (
            isinstance(target, dict)
            and all(target.get(name) == value for name, value in wanted.items())
            and (target.get("mattr") or []) == [f"-{name}" for name in self._target.without]
        )

    def _reader(self, task: Task) -> TraceReader:
        if task.key not in self._traces:
            self._traces[task.key] = _trace_reader(task, self._target)
            self.tasks[task.key] = task
            query = Query(task=task.key, target=self._target.key, template=AutoSpace.template)
            self._stored[task.key] = {(m.config, m.repeats) for m in self._store.scan(query)}
        return self._traces[task.key]


def _trace_reader(task: Task, target: Target) -> TraceReader:
    return TraceReader(AutoSpace(task, target))


@dataclass(frozen=True)
class _Record:
    """A record in JSON. ``seconds`` is empty for a failure."""

    workload: int
    instructions: list[object]
    decisions: list[object]
    seconds: tuple[float, ...]
    target: object


def _record(line: bytes) -> _Record:
    """Read a line. Raises ``ValueError`` or ``RecursionError`` if it holds no record."""
    if len(line) > _LONGEST_RECORD:
        raise ValueError(f"a record has at most {_LONGEST_RECORD} bytes, but this has more")
    value = json.loads(line)
    if not (isinstance(value, list) and len(value) == 2 and type(value[0]) is int and value[0] >= 0):
        raise ValueError(f"expected the number of a function and a record of it, found {shorten(value)}")
    if not (isinstance(value[1], list) and len(value[1]) == 4):
        raise ValueError(f"a record has a trace, times, a target and arguments, but this is {shorten(value[1])}")
    trace, seconds, target, _ = value[1]
    if not (isinstance(trace, list) and len(trace) == 2 and all(isinstance(part, list) for part in trace)):
        raise ValueError(f"a trace is a list of instructions and a list of decisions, but this is {shorten(trace)}")
    return _Record(value[0], trace[0], trace[1], _seconds(seconds), target)


def _seconds(value: object) -> tuple[float, ...]:
    """The times of a record in seconds; empty for a failure."""
    if value is None:
        return ()
    if not isinstance(value, list) or any(type(item) not in (int, float) for item in value):
        raise ValueError(f"times are a list of seconds, but this is {shorten(value)}")
    # MetaSchedule writes 1e10 for a failure. A time of 0 is no measurement either.
    if any(item > LONGEST or item == 0 for item in value):
        return ()
    if not all(item >= 0 for item in value):
        raise ValueError(f"times are numbers from 0 up, but these are {shorten(value)}")
    return tuple(float(item) for item in value)


def _lines(file: BinaryIO, longest: int) -> Iterator[bytes]:
    """The lines of ``file``. A line of more than ``longest`` bytes is cut off one byte after that."""
    while line := file.readline(longest + 1):
        yield line if len(line) <= longest else line + b"\n"
        while line and not line.endswith(b"\n"):
            line = file.readline(longest + 1)
