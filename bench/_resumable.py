"""The bookkeeping of a tuning run that is paused, ended and resumed: its running time, and its results over time.

Files in the run's folder, beside MetaSchedule's own database:

    state.json      the arguments of the run, and the running seconds of all calls together
    tasks.json      name, weight and arithmetic of each task, in the order of the database's workloads
    progress.jsonl  the number of records and their estimated latency, by running seconds
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilewright.errors import RecordsFormatError

RECORDS, WORKLOADS = "database_tuning_record.json", "database_workload.json"
STATE, TASKS, PROGRESS = "state.json", "tasks.json", "progress.jsonl"

#: Seconds between two ticks beyond which this process was stopped; such a gap counts as one of ``TICK``.
LONGEST_GAP, TICK = 3.0, 1.0
#: What MetaSchedule records, in seconds, of a candidate that could not be built or run.
FAILED = 1e9
#: Seconds after which progress is written although nothing has changed.
EVERY = 15.0


class RunningTime:
    """How long this process has been running, without the time that it was stopped (SIGSTOP).

    Nothing tells a process that it was stopped, so it looks at a clock about each second: where much more has passed,
    it did not run.

    Attributes:
        seconds: running seconds as of the last tick.
        stops: how often it was stopped.

    Args:
        seconds: of earlier calls.
        clock: seconds that pass whether the process runs or not.
        longest: seconds between two ticks beyond which it counts as stopped.
    """

    def __init__(
        self, seconds: float = 0.0, clock: Callable[[], float] = time.monotonic, longest: float = LONGEST_GAP
    ) -> None:
        self.seconds = seconds
        self.stops = 0
        self._clock = clock
        self._longest = longest
        self._last = clock()

    def tick(self) -> float:
        """Look at the clock; returns the running seconds. To be called each second."""
        now = self._clock()
        gap, self._last = now - self._last, now
        if gap > self._longest:
            self.stops += 1
            gap = TICK
        self.seconds += gap
        return self.seconds


@dataclass(frozen=True)
class Settings:
    """What a run was asked for. A folder belongs to one of them.

    Attributes:
        model: name of a network of ``bench._models``, or path of an ONNX file.
        trials_per_iter: candidates of a round of MetaSchedule's.
        layout: of the activations, ``NCHW`` or ``NHWC``.
        target: as in ``Target.parse``.
        seed: of MetaSchedule's random choices; they do not repeat, since measurements guide them.
    """

    model: str
    trials_per_iter: int = 64
    layout: str = "NCHW"
    target: str = "native"
    seed: int = 0


@dataclass
class State:
    """What is kept of a run between its calls.

    Attributes:
        settings: what it was asked for.
        seconds: running seconds of tuning, in all calls.
        preparations: seconds from the start of each call until it tuned: imports, reading the network, folding.
    """

    settings: Settings
    seconds: float = 0.0
    preparations: list[float] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> State | None:
        """The state of the run in ``folder``; None where there is none.

        Raises:
            RecordsFormatError: it cannot be read.
        """
        path = folder / STATE
        if not path.exists():
            return None
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            return cls(Settings(**entry["settings"]), float(entry["seconds"]), list(entry["preparations"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RecordsFormatError(
                f"a folder of a MetaSchedule run has its state in {STATE}, but {path} is not that: {error}; "
                "choose another --dir"
            ) from error

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        entry = {"settings": vars(self.settings), "seconds": self.seconds, "preparations": self.preparations}
        part = folder / (STATE + ".part")
        part.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        os.replace(part, folder / STATE)


class Records:
    """MetaSchedule's file of tuning records, read as it grows.

    Attributes:
        count: complete lines.
        runs: number of the workload -> the mean run of each of its candidates in seconds, as they were measured; inf
            where one could not be built or run.
    """

    def __init__(self, path: Path) -> None:
        self.count = 0
        self.runs: dict[int, list[float]] = {}
        self._path = path
        self._offset = 0

    def read(self) -> None:
        """Read what was written since the last time. Half a line stays for the next time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._add(json.loads(line))

    def _add(self, record: Any) -> None:
        workload, (_trace, runs, *_rest) = record
        mean = math.fsum(map(float, runs)) / len(runs) if runs else math.inf
        self.count += 1
        self.runs.setdefault(int(workload), []).append(mean if mean < FAILED else math.inf)

    @property
    def failed(self) -> int:
        """How many candidates could not be built or run."""
        return sum(map(math.isinf, itertools.chain(*self.runs.values())))

    def best(self, workload: int) -> float:
        """The shortest run of a workload, in seconds; inf where none has run."""
        return min(self.runs.get(workload, ()), default=math.inf)

    def missing(self, tasks: int) -> int:
        """How many of ``tasks`` tasks have nothing that ran."""
        return sum(math.isinf(self.best(number)) for number in range(tasks))

    def latency_ms(self, weights: Iterable[float]) -> float | None:
        """The sum of weight x best run, in milliseconds; None while a task has nothing that ran."""
        total = math.fsum(weight * self.best(number) for number, weight in enumerate(weights))
        return 1e3 * total if math.isfinite(total) else None


class Progress:
    """Writes ``progress.jsonl``: a line when records have come, and every 15 s.

    Args:
        folder: of the run.
        weights: how often the network has each task, by the number of its workload.
    """

    def __init__(self, folder: Path, weights: list[float]) -> None:
        self.records = Records(folder / RECORDS)
        self._path = folder / PROGRESS
        self._weights = weights
        self._written = (-math.inf, -1)

    def update(self, seconds: float, last: bool = False) -> bool:
        """Look at the records, ``seconds`` of running time after the start; returns whether a line was written."""
        self.records.read()
        since, count = self._written
        if not last and self.records.count == count and seconds - since < EVERY:
            return False
        self._written = seconds, self.records.count
        entry = {
            "seconds": round(seconds, 3),
            "records": self.records.count,
            "failed": self.records.failed,
            "missing": self.records.missing(len(self._weights)),
            "latency_ms": self.records.latency_ms(self._weights),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        return True


def count_by(progress: Path, seconds: float) -> int:
    """How many records there were after ``seconds`` of running time, by the lines of ``progress``.

    Raises:
        RecordsFormatError: the run was shorter than that.
    """
    entries = list(_lines(progress))
    reached = max((entry["seconds"] for entry in entries), default=0.0)
    # A run that is told to take 5 minutes ends within a tick of them.
    if reached < seconds - 2 * TICK:
        raise RecordsFormatError(
            f"a state is taken from within the run, but second {seconds:g} was asked for and {progress} ends at second "
            f"{reached:g}; tune on with --minutes"
        )
    return max((entry["records"] for entry in entries if entry["seconds"] <= seconds), default=0)


def truncated(folder: Path, seconds: float, out: Path) -> Path:
    """Copy the database in ``folder`` as it was after ``seconds`` of running time into the folder ``out``."""
    count = count_by(folder / PROGRESS, seconds)
    out.mkdir(parents=True, exist_ok=True)
    for name, limit in ((WORKLOADS, None), (RECORDS, count)):
        with (folder / name).open("rb") as source, (out / name).open("wb") as copy:
            for number, line in enumerate(source):
                if (limit is not None and number >= limit) or not line.endswith(b"\n"):
                    break
                copy.write(line)
    return out


def mend(path: Path) -> None:
    """Cut off half a line at the end of a file of lines, which a process left that was killed."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())
