"""Bounded, strict readers: what is valid comes back as it was, all else is a ValueError."""

from __future__ import annotations

import io
import json
import mmap
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilewright.reading import open_regular, parse_json, read_array, read_arrays, read_file

ARRAYS = hnp.arrays(
    st.one_of(
        hnp.scalar_dtypes().filter(lambda d: d.kind in "biufc"),
        hnp.unicode_string_dtypes(min_len=1, max_len=3, endianness="="),
    ),
    hnp.array_shapes(min_dims=0, min_side=0),
)


def written(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def read(content: bytes) -> np.ndarray[Any, Any]:
    return read_array(io.BytesIO(content), len(content))


@given(ARRAYS)
def test_an_array_comes_back(array: np.ndarray[Any, Any]) -> None:
    for order in "CF":
        given = np.asarray(array, order=order)  # type: ignore[call-overload]
        found = read(written(given))
        assert (found.dtype, found.shape) == (given.dtype, given.shape)
        assert found.tobytes() == given.tobytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        written(np.zeros(3))[:-1],
        written(np.zeros(3)) + b"x",
        written(np.asarray([("a", 1)], dtype=[("x", "U3"), ("y", "i4")])),
        written(np.zeros(1)).replace(b"'<f8'", b"'|O8'"),
        written(np.zeros(1)).replace(b"(1,)", b"(-1)"),
        written(np.zeros(11)).replace(b"(11,)", b"(9**9"),
        written(np.zeros((1, 1))).replace(b"(1, 1)", b"(f(),)"),
        written(np.zeros(1)).replace(b"'<f8'", b"'<f9'"),
        written(np.zeros(1)).replace(b"'shape'", b"'descr'"),
    ],
)
def test_an_array_that_is_none(content: bytes) -> None:
    with pytest.raises(ValueError, match="array"):
        read(content)


def test_memory_is_not_taken_for_what_is_only_declared() -> None:
    content = written(np.zeros(1)).replace(b"(1,), }        ", b"(99999999999,),}")
    assert b"99999999999" in content
    with pytest.raises(ValueError, match="needs 799,999,999,992 bytes"):
        read(content)


@given(st.data())
def test_an_archive_with_changed_bytes(data: st.DataObject) -> None:
    file = io.BytesIO()
    np.savez(file, a=np.arange(20, dtype=np.int32), b=np.asarray("text"))
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for most in (None, 1000):
        try:
            arrays = read_arrays(bytes(content), most)
        except ValueError:
            continue
        assert sum(array.nbytes for array in arrays.values()) <= 1000
    with tempfile.TemporaryFile() as place:
        place.write(content)
        for stored in (place, in_memory(content)):
            try:
                arrays = read_arrays(stored)
            except ValueError:
                continue
            assert sum(array.nbytes for array in arrays.values()) <= 1000


def test_a_file_of_uncompressed_arrays() -> None:
    given = {"a": np.arange(20, dtype=np.int32), "b": np.asarray("text"), "c": np.zeros((0, 3)), "d": np.eye(3).T}
    with tempfile.TemporaryFile() as place:
        np.savez(place, **given)  # type: ignore[arg-type]
        found = read_arrays(place)
        assert given.keys() == found.keys()
        assert all(np.array_equal(found[name], array) for name, array in given.items())
        assert all(found[name].dtype == array.dtype for name, array in given.items())
        place.truncate(300)
        with pytest.raises(ValueError, match=r"array|zip"):
            read_arrays(place)


def in_memory(content: bytes | bytearray) -> mmap.mmap:
    made = mmap.mmap(-1, max(1, len(content)))
    made[: len(content)] = content
    return made


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_of_arrays(save: Callable[..., None]) -> None:
    given = {"a": np.arange(20, dtype=np.int32), "b": np.asarray("text"), "c": np.zeros((0, 3)), "d": np.eye(3).T}
    place = io.BytesIO()
    save(place, **given)
    content = in_memory(place.getvalue())
    found = read_arrays(content, 10_000)
    assert given.keys() == found.keys()
    assert all(np.array_equal(found[name], array) for name, array in given.items())
    shared = np.shares_memory(found["a"], np.frombuffer(content, np.uint8))
    assert shared == (save is np.savez)


def test_memory_of_no_array() -> None:
    place = io.BytesIO()
    np.savez(place)
    assert read_arrays(in_memory(place.getvalue())) == {}
    for content in (b"", b"PK", place.getvalue()[:-1]):
        with pytest.raises(ValueError, match="zip"):
            read_arrays(in_memory(content))


def test_archives_that_are_too_much(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(1 << 20, dtype=np.uint8))
    assert len(file.getvalue()) < 5000
    with pytest.raises(ValueError, match="at most 5,000 are read"):
        read_arrays(file.getvalue(), 5000)
    with pytest.raises(ValueError, match="compressed"):
        read_arrays(file.getvalue())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_BZIP2) as archive:  # which is unpacked without a limit
        archive.writestr("a.npy", written(np.zeros(1 << 20)))
    with pytest.raises(ValueError, match="packed in a way"):
        read_arrays(packed.getvalue(), 1 << 30)
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("a.npy", written(np.zeros(1)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", written(np.ones(1)))
    with pytest.raises(ValueError, match="each of them once"):
        read_arrays(twice.getvalue())


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        "[NaN]",
        "-Infinity",
        '"\\ud800"',
        '["\\udfff\\ud800"]',
        "[" * 100_000,
        '{"a":' * 5_000,
        "1" * 1000,
        "",
        "{",
        b"\xff",
        b"\xed\xa0\x80",
        '"\ud800"',
    ],
    ids=lambda text: repr(text[:20]),
)
def test_json_that_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_json_comes_back(value: Any) -> None:
    for ascii_only in (False, True):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value
    with pytest.raises(ValueError, match="at most"):
        parse_json(json.dumps(value), 0)


def test_only_regular_files_of_a_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    assert read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(ValueError, match="5 bytes, but at most 4"):
        read_file(tmp_path / "file", 4)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="no regular file"):
            open_regular(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none", 4)
