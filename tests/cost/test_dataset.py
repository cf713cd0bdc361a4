from __future__ import annotations

import json
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.cost.data import data_set, narrower, task_data
from tilewright.cost.dataset import _MARK, VERSION, DataSet, TaskData, read_data_set, write_data_set
from tilewright.errors import MissingExtraError, RecordsError, RecordsVersionError
from tilewright.space.loop_nest import LoopNest


def same(found: DataSet, data: DataSet) -> None:
    assert found.about == data.about
    for a, b in zip(found.tasks, data.tasks, strict=True):
        for field in fields(TaskData):
            if field.name != "nest":
                equal(getattr(a, field.name), getattr(b, field.name))
        for field in fields(LoopNest):
            equal(getattr(a.nest, field.name), getattr(b.nest, field.name))


def equal(a: Any, b: Any) -> None:
    if isinstance(b, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b


@st.composite
def nests(draw: st.DrawFn, count: int, loops: int, buffers: int, extra: int) -> LoopNest:
    def floats(*shape: int) -> Any:
        return draw(
            arrays.arrays(np.float32, (count, *shape), elements=st.floats(0, 2.0**100, width=32), fill=st.just(1))
        )

    return LoopNest(
        axes=("m", "Ω"),
        buffers=tuple("ABC"[:buffers]),
        axis=draw(arrays.arrays(np.int8, (count, loops), elements=st.integers(0, 1))),
        extents=floats(loops),
        annotations=draw(arrays.arrays(np.int8, (count, loops), elements=st.integers(0, 3))),
        touched=floats(buffers, loops),
        strides=-floats(buffers, loops),
        reuse=floats(buffers, loops),
        arithmetic=floats(3),
        extra=floats(extra),
        extra_names=tuple(f"extra{i}" for i in range(extra)),
    )


@st.composite
def data_sets(draw: st.DrawFn) -> DataSet:
    widths = draw(st.integers(1, 3)), draw(st.integers(0, 3)), draw(st.integers(0, 2))
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    latency = st.floats(0, 1e9, exclude_min=True) | st.just(float("nan"))
    found = []
    for number in range(draw(st.integers(1, 3))):
        count, knobs = draw(st.integers(0, 5)), draw(st.integers(0, 4))
        found.append(
            TaskData(
                task=str(number),
                name=draw(text),
                flop=draw(st.floats(0, 1e15)),
                networks=tuple(draw(st.lists(text, max_size=2))),
                target=draw(text),
                template=draw(text),
                configs=draw(arrays.arrays(np.int32, (count, knobs), elements=st.integers(0, 2**31 - 1))),
                nest=draw(nests(count, *widths)),
                seconds=draw(arrays.arrays(np.float64, count, elements=latency)),
            )
        )
    return DataSet(tuple(found), {"command": draw(text), "target": {"l1": 1}})


@settings(max_examples=40)
@given(data=data_sets())
def test_round_trip(data: DataSet) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "d.parquet"
        write_data_set(data, path)
        same(read_data_set(path), data)


def test_round_trip_of_real_shapes(tmp_path: Path) -> None:
    write_data_set(data_set(), tmp_path / "d.parquet")
    same(read_data_set(tmp_path / "d.parquet"), data_set())
    assert np.isnan(data_set().tasks[0].seconds).any()


def test_networks() -> None:
    data = data_set()
    assert data.networks == ("bert", "resnet")
    assert [task.task for task in data.of("resnet").tasks] == ["key0", "key1"]
    assert [task.task for task in data.without("resnet").tasks] == ["key2"]
    assert data.of("resnet").about == data.about


def test_programs_of_two_widths_and_none_at_all_are_refused(tmp_path: Path) -> None:
    for tasks in ((task_data(), narrower(task_data(1))), ()):
        with pytest.raises(RecordsError, match="of one width"):
            write_data_set(DataSet(tasks), tmp_path / "d.parquet")
    assert not any(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="cannot be written"):
        write_data_set(data_set(), tmp_path / "none" / "d.parquet")
    write_data_set(data_set(), tmp_path / "d.parquet")
    with pytest.raises(RecordsError, match="No such file"):
        read_data_set(tmp_path / "none.parquet")
    with pytest.raises(RecordsError, match="directory"):
        read_data_set(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"task,seconds\n1,2\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_no_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.parquet").write_bytes(content)
    with pytest.raises(RecordsError, match="a data set is a Parquet file") as caught:
        read_data_set(tmp_path / "d.parquet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = tmp_path / "d.parquet"
    write_data_set(data_set(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(RecordsError, match="a data set is a Parquet file"):
        read_data_set(path)


def test_another_parquet_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"task": [1]}), tmp_path / "d.parquet")
    with pytest.raises(RecordsError, match="is not: no b'tilewright-dataset'"):
        read_data_set(tmp_path / "d.parquet")


def header(path: Path, **changes: Any) -> None:
    stored = pq.read_table(path)
    about = json.loads(stored.schema.metadata[_MARK]) | changes
    pq.write_table(stored.replace_schema_metadata({_MARK: json.dumps(about)}), path)


def test_a_newer_version(tmp_path: Path) -> None:
    write_data_set(data_set(), tmp_path / "d.parquet")
    header(tmp_path / "d.parquet", version=VERSION + 1)
    with pytest.raises(RecordsVersionError, match=f"of version {VERSION + 1}; upgrade"):
        read_data_set(tmp_path / "d.parquet")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "1"}, {"version": None}, {"about": 3}, {"tasks": 3}, {"tasks": [3]}, {"tasks": [{}]},
        {"widths": {}}, {"widths": {"axis": "x"}}, {"widths": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_a_header_of_another_form(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_data_set(data_set(), tmp_path / "d.parquet")
    header(tmp_path / "d.parquet", **changes)
    with pytest.raises(RecordsError, match="a data set is a Parquet file"):
        read_data_set(tmp_path / "d.parquet")


def refused(tmp_path: Path, task: TaskData, reason: str) -> None:
    write_data_set(DataSet((task,)), tmp_path / "d.parquet")
    with pytest.raises(RecordsError, match=reason):
        read_data_set(tmp_path / "d.parquet")


@pytest.mark.parametrize(
    ("name", "odd", "reason"),
    [
        ("annotations", 7, "annotation"),
        *[(name, -1, "no negative numbers") for name in ("extents", "touched", "reuse", "arithmetic")],
        ("strides", np.nan, "not finite"),
        ("strides", np.inf, "not finite"),
    ],
)
def test_a_program_that_cannot_be(tmp_path: Path, name: str, odd: float, reason: str) -> None:
    task = task_data()
    array = np.array(getattr(task.nest, name))
    array.flat[-1] = odd
    changes: Any = {name: array}
    refused(tmp_path, replace(task, nest=replace(task.nest, **changes)), reason)


@pytest.mark.parametrize("odd", [0.0, -1e-3, np.inf, -np.inf])
def test_a_latency_that_cannot_be(tmp_path: Path, odd: float) -> None:
    task = task_data()
    refused(
        tmp_path, replace(task, seconds=np.append(task.seconds[:-1], odd)), "latencies are positive numbers, or nan"
    )


@pytest.mark.parametrize(("odd", "reason"), [(-1.0, "FLOP"), ("3", "FLOP"), (np.nan, "no number of JSON")])
def test_operations_that_cannot_be(tmp_path: Path, odd: Any, reason: str) -> None:
    refused(tmp_path, replace(task_data(), flop=odd), reason)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    for call in (lambda: read_data_set(tmp_path / "d"), lambda: write_data_set(data_set(), tmp_path / "d")):
        with pytest.raises(MissingExtraError, match=r"tilewright\[parquet\]"):
            call()
