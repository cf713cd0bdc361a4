"""What a store keeps of a tuning besides its measurements: of which network, when, for how long, and what it gained."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

from tilewright.errors import RecordsFormatError
from tilewright.reading import parse_json
from tilewright.records.codec import LONGEST, LONGEST_KEY, is_key, make_storable, shorten

__all__ = ["KeepsRuns", "ReadsRuns", "RunRecord", "decode_run", "encode_run"]

#: The most tasks of a run that are kept, and the most characters of their list. A large network has some hundred.
_MOST_TASKS, _LONGEST_TASKS = 4000, 1 << 20
_TEXTS = ("network", "target", "machine", "method", "published", "outcome")
_SECONDS = ("budget_seconds", "before_seconds", "after_seconds")


@dataclass(frozen=True)
class RunRecord:
    """A tuning of a network.

    Attributes:
        network: its name, for people.
        target: ``Target.key``.
        machine: the name of the processor, for people.
        method: the name of the method.
        time: POSIX time of its end, in seconds.
        budget_seconds: of its budget; None: it had no time limit.
        wall_seconds: that it took.
        trials: candidates that it measured.
        before_seconds: latency of the network before; None: not known.
        after_seconds: latency of the executable that was published; None: not known.
        published: which executable that is: "tuned", "incumbent" or "onnxruntime".
        outcome: of the judgement on its outputs; empty: it was not judged.
        tasks: of the network: ``Task.key`` and number of calls.
    """

    network: str
    target: str
    machine: str
    method: str
    time: float
    budget_seconds: float | None = None
    wall_seconds: float = 0.0
    trials: int = 0
    before_seconds: float | None = None
    after_seconds: float | None = None
    published: str = ""
    outcome: str = ""
    tasks: tuple[tuple[str, float], ...] = ()


@runtime_checkable
class KeepsRuns(Protocol):
    """A store that keeps runs as well. A ``Store`` need not."""

    def add_run(self, run: RunRecord) -> None:
        """Keep a run. It is durable when this returns. Raises ``RecordsError``."""
        ...


@runtime_checkable
class ReadsRuns(KeepsRuns, Protocol):
    """A store that gives its runs as well."""

    def read_runs(self) -> Iterator[RunRecord]:
        """The runs in the order they were added. Rows that are none are passed over. Raises ``RecordsError``."""
        ...


def encode_run(run: RunRecord) -> dict[str, object]:
    """A run as a row of a database. Texts are cut to a thousand characters, and times that are none become null."""
    cut = {name: make_storable(str(getattr(run, name)))[:LONGEST_KEY] for name in _TEXTS}
    times = {name: _sound(getattr(run, name)) for name in _SECONDS}
    tasks = [[key, float(weight)] for key, weight in run.tasks[:_MOST_TASKS]]
    given = {field.name: getattr(run, field.name) for field in fields(run)}
    listed = json.dumps(tasks, separators=(",", ":"), allow_nan=False)
    return {**given, **cut, **times, "time": _sound(run.time) or 0.0, "trials": int(run.trials), "tasks": listed}


def decode_run(row: Mapping[str, object]) -> RunRecord:
    """A run from a row, which may hold anything.

    Raises:
        RecordsFormatError: a field has another type, or a text is too long.
    """
    trials = row["trials"]
    return RunRecord(
        network=_text(row, "network"),
        target=_text(row, "target"),
        machine=_text(row, "machine"),
        method=_text(row, "method"),
        time=_sound(row["time"]) or 0.0,
        budget_seconds=_sound(row["budget_seconds"]),
        wall_seconds=_sound(row["wall_seconds"]) or 0.0,
        trials=max(0, trials) if isinstance(trials, int) and not isinstance(trials, bool) else 0,
        before_seconds=_sound(row["before_seconds"]),
        after_seconds=_sound(row["after_seconds"]),
        published=_text(row, "published"),
        outcome=_text(row, "outcome"),
        tasks=_decode_tasks(row["tasks"]),
    )


def _text(row: Mapping[str, object], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or len(value) > LONGEST_KEY or make_storable(value) != value:
        raise RecordsFormatError(f"the {name} of a run is a plain text, but this is {shorten(value)}")
    return value


def _sound(value: object) -> float | None:
    """A time in seconds that can be one; POSIX times are larger than durations."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and isinstance(value, int | float) and 0 <= value < 100 * LONGEST else None


def _decode_tasks(text: object) -> tuple[tuple[str, float], ...]:
    try:
        found = parse_json(text, _LONGEST_TASKS) if isinstance(text, str) else None
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise RecordsFormatError(f"the tasks of a run are a list in JSON, but this is {shorten(text)}")
    return tuple(_task(pair) for pair in found[:_MOST_TASKS])


def _task(pair: Sequence[object] | object) -> tuple[str, float]:
    if isinstance(pair, list) and len(pair) == 2:
        key, weight = pair
        if isinstance(key, str) and is_key(key) and isinstance(weight, int | float) and math.isfinite(weight):
            return key, float(weight)
    raise RecordsFormatError(f"a task of a run is its key and a number of calls, but this is {shorten(pair)}")
