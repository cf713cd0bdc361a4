"""What measurements and tasks may contain, and their form as text. Every store and the export pass through here.

Nothing read back is ever evaluated or unpickled: a config is a list of integers, a repeat is a number, and
anything else is refused.
"""

from __future__ import annotations

import base64
import json
import math
import operator
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from tilewright.errors import RecordsError, RecordsFormatError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.reading import parse_json
from tilewright.task import Task

__all__ = ["decode", "decode_list", "decode_summary", "decode_task", "encode_ir", "encode_list", "normalise"]

#: A latency or an effort beyond this many seconds (31 years) is a mistake, and would overflow a sum later.
LONGEST = 1e9
#: Indices are int32 wherever configs are handled.
LARGEST_INDEX = 2**31 - 1
#: A list of numbers has no more characters: a config has a dozen entries, a measurement a few hundred repeats.
_LONGEST_LIST = 1 << 20
#: A message is a line or two; more of one that others wrote is cut.
_LONGEST_MESSAGE = 10_000
#: A key or the name of a task.
_LONGEST_KEY = 1_000
#: An ``ir`` longer than this is compressed: a convolution's 36 kB become 5.5 kB.
_LONG = 20_000
#: Stands before a compressed ``ir``; TVM's JSON begins with a brace.
_COMPRESSED = "zlib:"
#: More than this does not come out of a compressed ``ir``: a damaged or hostile one shall not fill the memory.
_LARGEST_IR = 2**26


def normalise(measurement: Measurement) -> Measurement:
    """The measurement in plain Python numbers and storable text, checked.

    NumPy scalars become ``int`` and ``float``. Of a message, characters that no database stores (NUL and lone
    surrogates, both common in the last words of a crashed compiler) become U+FFFD.

    Raises:
        RecordsError: a field is of the wrong kind or out of range.
    """
    try:
        config = tuple(operator.index(index) for index in measurement.config)
        repeats = tuple(float(seconds) for seconds in measurement.repeats)
        time, elapsed = float(measurement.time), float(measurement.elapsed)
    except (TypeError, ValueError, OverflowError) as exc:
        raise RecordsError(
            f"a measurement holds a config of integers and times in seconds, but this is {shorten(measurement)}: {exc}"
        ) from exc
    if not isinstance(measurement.outcome, Outcome):
        raise RecordsError(f"an outcome is one of {[o.name for o in Outcome]}, but this is {measurement.outcome!r}")
    for name in ("task", "target", "template"):
        key = getattr(measurement, name)
        if not isinstance(key, str) or not 0 < len(key) <= _LONGEST_KEY or storable(key) != key:
            raise RecordsError(f"a measurement's {name} is a text of plain characters, but this is {shorten(key)}")
    if any(not 0 <= index <= LARGEST_INDEX for index in config):
        raise RecordsError(f"a config's entries are from 0 to 2**31 - 1, but this is {shorten(config)}")
    if any(not 0 <= seconds <= LONGEST for seconds in (*repeats, elapsed)) or not math.isfinite(time):
        raise RecordsError(
            f"a measurement's times are finite and not negative, but these are repeats {shorten(repeats)}, "
            f"elapsed {elapsed}, time {time}; a failure has no repeats, and its outcome says what happened"
        )
    if measurement.ok and not repeats:
        raise RecordsError("an OK measurement has at least one repeat, but this has none; give it another outcome")
    message = storable(str(measurement.message))[:_LONGEST_MESSAGE]
    return Measurement(
        measurement.task,
        measurement.target,
        measurement.template,
        config,
        measurement.outcome,
        repeats,
        message,
        time,
        elapsed,
    )


def storable(text: str) -> str:
    """``text`` with U+FFFD for each NUL and each lone surrogate."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encode_list(numbers: Iterable[float]) -> str:
    """A list of numbers as JSON. Equal lists give equal text, so that a database can compare configs."""
    return json.dumps(list(numbers), separators=(",", ":"), allow_nan=False)


def decode_list(text: str) -> list[Any]:
    """The list in a JSON text. Raises ``RecordsFormatError`` where it is none."""
    try:
        value = parse_json(text, _LONGEST_LIST)
    except (TypeError, ValueError) as exc:
        raise RecordsFormatError(f"a list of numbers in JSON was expected, but found {shorten(text)}: {exc}") from exc
    if not isinstance(value, list):
        raise RecordsFormatError(f"a list of numbers in JSON was expected, but found {shorten(text)}")
    return value


def decode(fields: Mapping[str, Any]) -> Measurement:
    """The measurement in ``fields``, which are the attributes of ``Measurement`` as JSON has them.

    Raises:
        RecordsFormatError: a field is missing, of the wrong kind, or out of range.
    """
    try:
        measurement = Measurement(
            task=_exactly(str, fields, "task"),
            target=_exactly(str, fields, "target"),
            template=_exactly(str, fields, "template"),
            config=tuple(_numbers(int, fields, "config")),
            outcome=Outcome(_exactly(str, fields, "outcome")),
            repeats=tuple(map(float, _numbers(float, fields, "repeats"))),
            message=_exactly(str, fields, "message"),
            time=float(_number(fields, "time")),
            elapsed=float(_number(fields, "elapsed")),
        )
        return normalise(measurement)
    except KeyError as exc:
        raise RecordsFormatError(f"a measurement has a field {exc}, but this has only {sorted(fields)}") from exc
    except (ValueError, OverflowError, RecordsError) as exc:
        raise RecordsFormatError(f"not a measurement: {exc}") from exc


def encode_ir(ir: str) -> str:
    """A task's ``ir`` as a database keeps it: as it is, or compressed where it is long."""
    ir = storable(ir)
    if len(ir) <= _LONG and not ir.startswith(_COMPRESSED):
        return ir
    return _COMPRESSED + base64.b64encode(zlib.compress(ir.encode(), 9)).decode("ascii")


def decode_ir(text: str) -> str:
    """The ``ir`` of :func:`encode_ir`. Raises ``ValueError`` where it is none."""
    if not text.startswith(_COMPRESSED):
        if len(text) > _LARGEST_IR:
            raise ValueError("its ir is larger than any task's")
        return text
    unpack = zlib.decompressobj()
    try:
        ir = unpack.decompress(base64.b64decode(text[len(_COMPRESSED) :], validate=True), _LARGEST_IR)
    except zlib.error as exc:
        raise ValueError(f"its ir is damaged: {exc}") from exc
    if not unpack.eof:
        raise ValueError("its ir is cut off, or larger than any task's")
    return ir.decode()


def decode_task(fields: Mapping[str, Any]) -> Task:
    """The task in ``fields``, which are the attributes of ``Task`` as a database has them.

    Raises:
        RecordsFormatError: a field is missing, or of the wrong kind.
    """
    try:
        key, name, kind, ir = (_exactly(str, fields, field) for field in ("key", "name", "kind", "ir"))
        if any(len(text) > _LONGEST_KEY or storable(text) != text for text in (key, name, kind)):
            raise ValueError(f"its key, name and kind are plain texts, but are {shorten((key, name, kind))}")
        flop = float(_number(fields, "flop"))
        if not 0 <= flop < math.inf:
            raise ValueError(f"its flop is {flop}")
        return Task(key, name, kind, flop, decode_ir(ir))
    except (KeyError, ValueError, OverflowError) as exc:
        raise RecordsFormatError(f"task {shorten(fields.get('key'))}: not a task: {exc}") from exc


def shorten(value: object) -> str:
    """A value for a message: quoted, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _exactly(kind: type, fields: Mapping[str, Any], name: str) -> Any:
    value = fields[name]
    if type(value) is not kind:
        raise ValueError(f"{name} should be of type {kind.__name__}, but is {shorten(value)}")
    return value


def _number(fields: Mapping[str, Any], name: str) -> Any:
    value = fields[name]
    if type(value) not in (int, float):
        raise ValueError(f"{name} should be a number, but is {shorten(value)}")
    return value


def decode_summary(fields: Mapping[str, Any]) -> None:
    """Raise ``RecordsFormatError`` where the summary of a store's rows has not the types it should have."""
    texts = (fields["task"], fields["target"], fields["template"], fields["name"])
    numbers = [fields[name] for name in ("flop", "best_seconds", "last_time") if fields[name] is not None]
    if not all(isinstance(text, str) for text in texts) or fields["last_time"] is None:
        raise RecordsFormatError(f"a measurement's keys are texts, but these are {shorten(texts)}")
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise RecordsFormatError(f"times and FLOP counts are numbers, but these are {shorten(numbers)}")


def _numbers(kind: type, fields: Mapping[str, Any], name: str) -> list[Any]:
    values = _exactly(list, fields, name)
    if any(type(value) is not int and type(value) is not kind for value in values):
        raise ValueError(f"{name} should be a list of type {kind.__name__}, but is {shorten(values)}")
    return list(values)
