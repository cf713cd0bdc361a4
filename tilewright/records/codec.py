"""The permitted content of measurements and tasks, and their form as text, for every store and the export.

Nothing that is read back is evaluated or unpickled. A config is a list of integers, a repeat is a number, and anything
else is refused.
"""

from __future__ import annotations

import base64
import json
import math
import operator
import zlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from tilewright.errors import RecordsError, RecordsFormatError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.reading import parse_json
from tilewright.task import Task

__all__ = ["check_summary", "decode", "decode_list", "decode_task", "encode_ir", "encode_list", "normalise"]

Field = TypeVar("Field")

#: The longest latency or effort in seconds: 31 years. Longer times are mistakes, and their sums could overflow.
LONGEST = 1e9
#: The largest index of a config, an int32.
LARGEST_INDEX = 2**31 - 1
#: The most characters of a list of numbers. A config has a dozen entries, and a measurement a few hundred repeats.
_LONGEST_LIST = 1 << 20
#: The most characters of a message. Messages have a line or two; the rest of a longer one is cut off.
_LONGEST_MESSAGE = 10_000
#: The most characters of a key, and of the name of a task.
LONGEST_KEY = 1_000
#: An ``ir`` of more characters is compressed. The 36 kB of a convolution become 5.5 kB.
_LONG = 20_000
#: The prefix of a compressed ``ir``. TVM's JSON begins with a brace.
_COMPRESSED = "zlib:"
#: The most characters of an ``ir``, so that a damaged or hostile compressed one cannot fill the memory.
_LARGEST_IR = 2**26


def normalise(measurement: Measurement) -> Measurement:
    """Check a measurement, and convert it to plain Python numbers and storable text.

    NumPy scalars become ``int`` and ``float``. Characters of a message that no database stores become U+FFFD: NUL and
    lone surrogates, which are common in the output of a crashed compiler.

    Raises:
        RecordsError: a field has the wrong type or is out of range.
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
        if not is_key(key):
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
    message = make_storable(str(measurement.message))[:_LONGEST_MESSAGE]
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


def is_key(value: object) -> bool:
    """Whether a value can be the key of a task, a target or a template: a short text of plain characters."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_KEY and make_storable(value) == value


def make_storable(text: str) -> str:
    """The text with U+FFFD for each NUL and each lone surrogate."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encode_list(numbers: Iterable[float]) -> str:
    """Encode a list of numbers as JSON. Equal lists give equal texts, so that a database can compare configs."""
    return json.dumps(list(numbers), separators=(",", ":"), allow_nan=False)


def decode_list(text: str) -> list[object]:
    """Decode the list in a JSON text. Raises ``RecordsFormatError`` if the text holds no list."""
    try:
        value = parse_json(text, _LONGEST_LIST)
    except (TypeError, ValueError) as exc:
        raise RecordsFormatError(f"a list of numbers in JSON was expected, but found {shorten(text)}: {exc}") from exc
    if not isinstance(value, list):
        raise RecordsFormatError(f"a list of numbers in JSON was expected, but found {shorten(text)}")
    return value


def decode(fields: Mapping[str, object]) -> Measurement:
    """Decode a measurement from its attributes as JSON has them.

    Raises:
        RecordsFormatError: a field is missing, has the wrong type, or is out of range.
    """
    try:
        measurement = Measurement(
            task=_exactly(str, fields, "task"),
            target=_exactly(str, fields, "target"),
            template=_exactly(str, fields, "template"),
            config=tuple(_integers(fields, "config")),
            outcome=Outcome(_exactly(str, fields, "outcome")),
            repeats=tuple(_numbers(fields, "repeats")),
            message=_exactly(str, fields, "message"),
            time=_number(fields, "time"),
            elapsed=_number(fields, "elapsed"),
        )
        return normalise(measurement)
    except KeyError as exc:
        raise RecordsFormatError(f"a measurement has a field {exc}, but this has only {sorted(fields)}") from exc
    except (ValueError, OverflowError, RecordsError) as exc:
        raise RecordsFormatError(f"not a measurement: {exc}") from exc


def encode_ir(ir: str) -> str:
    """Encode a task's ``ir`` for a database: a long one is compressed."""
    ir = make_storable(ir)
    if len(ir) <= _LONG and not ir.startswith(_COMPRESSED):
        return ir
    return _COMPRESSED + base64.b64encode(zlib.compress(ir.encode(), 9)).decode("ascii")


def decode_ir(text: str) -> str:
    """Decode the ``ir`` of :func:`encode_ir`. Raises ``ValueError`` if it is damaged or too large."""
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


def decode_task(fields: Mapping[str, object]) -> Task:
    """Decode a task from its attributes as a database has them.

    Raises:
        RecordsFormatError: a field is missing or has the wrong type.
    """
    try:
        key, name, kind, ir = (_exactly(str, fields, field) for field in ("key", "name", "kind", "ir"))
        if any(len(text) > LONGEST_KEY or make_storable(text) != text for text in (key, name, kind)):
            raise ValueError(f"its key, name and kind are plain texts, but are {shorten((key, name, kind))}")
        flop = _number(fields, "flop")
        if not 0 <= flop < math.inf:
            raise ValueError(f"its flop is {flop}")
        return Task(key, name, kind, flop, decode_ir(ir))
    except (KeyError, ValueError, OverflowError) as exc:
        raise RecordsFormatError(f"task {shorten(fields.get('key'))}: not a task: {exc}") from exc


def shorten(value: object) -> str:
    """A value for a message: quoted, and cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_summary(fields: Mapping[str, object]) -> None:
    """Raise ``RecordsFormatError`` if a field of a ``Summary``, as a database has it, has the wrong type."""
    texts = (fields["task"], fields["target"], fields["template"], fields["name"])
    numbers = [fields[name] for name in ("flop", "best_seconds", "last_time") if fields[name] is not None]
    if not all(isinstance(text, str) for text in texts) or fields["last_time"] is None:
        raise RecordsFormatError(f"a measurement's keys are texts, but these are {shorten(texts)}")
    if not all(isinstance(n, int | float) and type(n) is not bool and math.isfinite(n) for n in numbers):
        raise RecordsFormatError(f"times and FLOP counts are numbers, but these are {shorten(numbers)}")


def _exactly(kind: type[Field], fields: Mapping[str, object], name: str) -> Field:
    """The field ``name``, whose type is ``kind`` and no subclass of it."""
    value = fields[name]
    if not isinstance(value, kind) or type(value) is not kind:
        raise ValueError(f"{name} should be of type {kind.__name__}, but is {shorten(value)}")
    return value


def _number(fields: Mapping[str, object], name: str) -> float:
    value = fields[name]
    if not isinstance(value, int | float) or type(value) is bool:
        raise ValueError(f"{name} should be a number, but is {shorten(value)}")
    return float(value)


def _integers(fields: Mapping[str, object], name: str) -> list[int]:
    values: list[object] = _exactly(list, fields, name)
    found = [value for value in values if isinstance(value, int) and type(value) is not bool]
    if len(found) != len(values):
        raise ValueError(f"{name} should be a list of type int, but is {shorten(values)}")
    return found


def _numbers(fields: Mapping[str, object], name: str) -> list[float]:
    values: list[object] = _exactly(list, fields, name)
    found = [float(value) for value in values if isinstance(value, int | float) and type(value) is not bool]
    if len(found) != len(values):
        raise ValueError(f"{name} should be a list of type float, but is {shorten(values)}")
    return found
