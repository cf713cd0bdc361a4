"""Every reader of outside data on changed files: refused with an error of ours, or read and right in type."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench._malformed import count, read_one
from bench._mutated import mutated
from bench._readers import READERS

#: Those that cannot take the process with them.
IN_PROCESS = [name for name, reader in READERS.items() if not reader.compiled]


@functools.cache
def valid(name: str) -> tuple[Path, bytes]:
    path = READERS[name].make(Path(tempfile.mkdtemp(prefix="tilewright-test-")))
    return path, path.read_bytes()


@pytest.mark.parametrize("name", IN_PROCESS)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**64))
def test_a_changed_file_is_refused_or_read(name: str, seed: int) -> None:
    path, content = valid(name)
    assert read_one(READERS[name], path, mutated(content, random.Random(seed))) in ("refused", "valid")


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_valid_file_is_read(name: str) -> None:
    path, content = valid(name)
    assert read_one(READERS[name], path, content) == "valid"


@pytest.mark.parametrize("name", ["executable, sealed anew", "ONNX", "recorded task"])
def test_a_changed_file_does_not_end_the_process(name: str) -> None:
    counts = count(1.0, [name])[name]
    assert counts.failures == []
    assert counts.malformed_tried == counts.malformed_refused > 0


def test_a_reader_that_cannot_be_tried_is_told_and_the_others_are_tried() -> None:
    found = count(1.0, ["no such reader", "input array"])
    [failure] = found["no such reader"].failures
    assert failure.startswith("it cannot be tried")
    assert found["no such reader"].malformed_tried == 0
    assert found["input array"].failures == []
    assert found["input array"].malformed_tried > 0
    assert 0.5 <= found["input array"].seconds < 60


def test_readers_that_no_time_is_left_for_are_told() -> None:
    found = count(1.0, ["input array", "data set"], most=0.0)
    assert [counts.failures for counts in found.values()] == [["no time was left to try it"]] * 2


def test_changes_are_changes_and_can_be_repeated() -> None:
    for content in (b'{"a": [1, 2, {"b": "c"}]}', b"\x00\x01binary" * 20, b'{"a": 1}\n{"a": 2}\n'):
        made = [mutated(content, random.Random(seed)) for seed in range(200)]
        assert made == [mutated(content, random.Random(seed)) for seed in range(200)]
        assert sum(change != content for change in made) > 150
        assert len(set(made)) > 60
