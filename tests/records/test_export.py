from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.records import strategies as some
from tilewright.errors import RecordsError, RecordsFormatError, RecordsVersionError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records.export import VERSION, read_jsonl, write_jsonl
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query

GOOD = Measurement("t", "cpu", "contraction/1", (1, 2), Outcome.OK, (0.5, 0.5), "", 1.5, 0.25)


def line(**changes: object) -> str:
    file = io.StringIO()
    write_jsonl([GOOD], file)
    fields = json.loads(file.getvalue()) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


@given(st.lists(some.measurements(), max_size=6))
def test_round_trip(measurements: list[Measurement]) -> None:
    file = io.StringIO()
    assert write_jsonl(measurements, file) == len(measurements)
    assert file.getvalue().count("\n") == len(measurements)
    assert file.getvalue().isascii()
    assert list(read_jsonl(io.StringIO(file.getvalue()))) == measurements


def test_the_format() -> None:
    file = io.StringIO()
    write_jsonl([GOOD, replace(GOOD, outcome=Outcome.RUN_CRASHED, repeats=(), message="signal 11")], file)
    assert [json.loads(text) for text in file.getvalue().splitlines()] == [
        {
            "version": 1, "task": "t", "target": "cpu", "template": "contraction/1", "config": [1, 2], "outcome": "ok",
            "seconds": 0.5, "repeats": [0.5, 0.5], "message": "", "time": 1.5, "elapsed": 0.25,
        },
        {
            "version": 1, "task": "t", "target": "cpu", "template": "contraction/1", "config": [1, 2],
            "outcome": "run_crashed", "seconds": None, "repeats": [], "message": "signal 11", "time": 1.5,
            "elapsed": 0.25,
        },
    ]  # fmt: skip


def test_from_one_store_to_another() -> None:
    first, second, file = MemoryStore(), MemoryStore(), io.StringIO()
    first.add([GOOD, replace(GOOD, config=(2, 2))])
    write_jsonl(first.scan(Query()), file)
    second.add(list(read_jsonl(file.getvalue().splitlines())))
    assert list(second.scan(Query())) == list(first.scan(Query()))


def test_both_ways_stream() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield line()

    reader = read_jsonl(endless())
    assert [next(reader) for _ in range(3)] == [GOOD] * 3
    assert taken == 3


def test_empty_lines_and_unknown_fields_are_skipped() -> None:
    assert list(read_jsonl(["\n", line(colour="red", seconds="no matter") + "\n", "  \n"])) == [GOOD]


@pytest.mark.parametrize(
    "bad",
    [
        "{", "[]", "null", "7", line()[:-5], "[" * 100_000, "9" * 6000,
        line(version=...), line(version=0), line(version="1"), line(version=True), line(task=...), line(task=7),
        line(config=...), line(config="12"), line(config=[1.0]), line(config=[True]), line(config=[-1]),
        line(config=[2**40]), line(config={"a": 1}), line(outcome="fast"), line(outcome=None),
        line(repeats=[]), line(repeats=[None]), line(repeats=[float("nan")]), line(repeats=[10**400]),
        line(message=None), line(time="noon"), line(time=float("inf")), line(elapsed=-1), line(elapsed=True),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_by_its_number(bad: str) -> None:
    reader = read_jsonl([line(), "", bad, line()])
    assert next(reader) == GOOD
    with pytest.raises(RecordsFormatError, match="line 3: ") as refusal:
        next(reader)
    assert len(str(refusal.value)) < 600


def test_a_newer_line() -> None:
    with pytest.raises(RecordsVersionError, match=f"line 1: .* version {VERSION + 1}; upgrade"):
        list(read_jsonl([line(version=VERSION + 1)]))


def test_not_text() -> None:
    with pytest.raises(RecordsFormatError, match="UTF-8"):
        list(read_jsonl(io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00"), encoding="utf-8")))


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5).map(json.dumps))
def test_anything_else_is_refused_cleanly(text: str) -> None:
    with pytest.raises(RecordsFormatError):
        list(read_jsonl([text, "not JSON"]))


def test_the_impossible_is_not_written() -> None:
    with pytest.raises(RecordsError):
        write_jsonl([replace(GOOD, repeats=(float("inf"),))], io.StringIO())
