r"""Measurements as JSON lines, for people, other tools, and other stores.

A line is one measurement::

    {"version": 1, "task": "9f2c…", "target": "znver3-2x-…", "template": "contraction/1", "config": [3, 0, 7],
     "outcome": "ok", "seconds": 0.0012, "repeats": [0.0012, 0.0013], "message": "",
     "time": 1700000000.0, "elapsed": 0.4}

``seconds`` is the robust latency, which is not read back. docs/reference/records.md describes every field.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TextIO

from tilewright.errors import RecordsFormatError, RecordsVersionError
from tilewright.measure.outcome import Measurement
from tilewright.reading import parse_json
from tilewright.records.codec import decode, normalise, shorten

__all__ = ["VERSION", "read_jsonl", "write_jsonl"]

#: The version of the lines. A change that an older reader would misread raises it.
VERSION = 1
#: The most characters of a line: ten times those of one with the longest message and a thousand repeats.
_LONGEST = 1 << 20


def write_jsonl(measurements: Iterable[Measurement], file: TextIO) -> int:
    """Write measurements to ``file``, one JSON object a line, in ASCII; return the number of lines.

    One measurement is in memory at a time, so that ``write_jsonl(store.scan(Query()), file)`` exports a store of any
    size.
    """
    count = 0
    for measurement in map(normalise, measurements):
        fields = {
            "version": VERSION,
            "task": measurement.task,
            "target": measurement.target,
            "template": measurement.template,
            "config": measurement.config,
            "outcome": measurement.outcome.value,
            "seconds": measurement.seconds if measurement.ok else None,
            "repeats": measurement.repeats,
            "message": measurement.message,
            "time": measurement.time,
            "elapsed": measurement.elapsed,
        }
        file.write(json.dumps(fields, allow_nan=False) + "\n")
        count += 1
    return count


def read_jsonl(lines: Iterable[str]) -> Iterator[Measurement]:
    """Read the measurements in ``lines``, such as an open file, one at a time. Empty lines are skipped.

    Raises:
        RecordsFormatError: a line is not a measurement; the message says which, counted from 1.
        RecordsVersionError: a line is of a newer version.
    """
    if isinstance(lines, io.TextIOBase):
        # A file without line ends would be read as one line of any size.
        lines = iter(partial(lines.readline, _LONGEST + 1), "")
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _read_line(number, line)
    except UnicodeDecodeError as exc:
        raise RecordsFormatError(f"records are JSON lines in UTF-8, but this is not text: {exc}") from exc


def _read_line(number: int, line: str) -> Measurement:
    try:
        fields = parse_json(line, _LONGEST)
    except ValueError as exc:
        raise RecordsFormatError(f"line {number}: expected one JSON object, found {shorten(line)}: {exc}") from exc
    if not isinstance(fields, dict):
        raise RecordsFormatError(f"line {number}: expected one JSON object, found {shorten(line)}")
    version = fields.get("version")
    if type(version) is not int or version < 1:
        raise RecordsFormatError(f"line {number}: expected a version of 1 or more, found {shorten(version)}")
    if version > VERSION:
        raise RecordsVersionError(
            f"line {number}: this Tilewright reads records up to version {VERSION}, but this is of version {version}; "
            "upgrade Tilewright"
        )
    try:
        return decode(fields)
    except RecordsFormatError as exc:
        raise RecordsFormatError(f"line {number}: {exc}") from exc
