"""Measured programs of many tasks, on which cost models are trained and judged; kept as one Parquet file.

A row is a measured config: what it gave, and its program in closed form. So a data set needs neither TVM nor the
templates that made it, and a later version of a template does not change what it says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MissingExtraError, RecordsError, RecordsVersionError
from tilewright.reading import open_regular, parse_json
from tilewright.space.loop_nest import Annotation, LoopNest

__all__ = ["VERSION", "DataSet", "TaskData", "read_data_set", "write_data_set"]

#: Raised with every change after which an older reader would misread a file.
VERSION = 1
_MARK = b"tilewright-dataset"
#: The fields of a loop nest with a row per program, and their types.
_ARRAYS: dict[str, type[np.generic]] = {
    "axis": np.int8,
    "extents": np.float32,
    "annotations": np.int8,
    "touched": np.float32,
    "strides": np.float32,
    "reuse": np.float32,
    "arithmetic": np.float32,
    "extra": np.float32,
}
_NAMES = ("axes", "buffers", "extra_names")
#: What is counted, and so not negative.
_COUNTS = ("extents", "touched", "reuse", "arithmetic")
#: Of a file, and of its table: 100 times the largest data set there is.
_MOST_BYTES, _MOST_CELLS = 1 << 30, 1 << 29


@dataclass(frozen=True)
class TaskData:
    """The measured programs of one task on one target.

    Attributes:
        task: ``Task.key``.
        name: of the task, for people.
        flop: floating-point operations of one call.
        networks: those that the task was seen in; a model is judged on networks that none of its tasks is of.
        target: ``Target.key``.
        template: name and version of the template.
        configs: ``(n, knobs)``, none twice.
        nest: the programs.
        seconds: ``(n,)`` robust latencies; nan: failed.
    """

    task: str
    name: str
    flop: float
    networks: tuple[str, ...]
    target: str
    template: str
    configs: NDArray[np.int32]
    nest: LoopNest
    seconds: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """``(n,)``: which have a latency."""
        return np.isfinite(self.seconds)


@dataclass(frozen=True)
class DataSet:
    """Tasks and where they were measured.

    Attributes:
        tasks: no two of one task, target and template.
        about: machine, date, command, and the features of the target, ready for JSON.
    """

    tasks: tuple[TaskData, ...]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def networks(self) -> tuple[str, ...]:
        """All networks, sorted."""
        return tuple(sorted({network for task in self.tasks for network in task.networks}))

    def without(self, network: str) -> DataSet:
        """The tasks that ``network`` has nothing of."""
        return DataSet(tuple(t for t in self.tasks if network not in t.networks), self.about)

    def of(self, network: str) -> DataSet:
        """The tasks of ``network``."""
        return DataSet(tuple(t for t in self.tasks if network in t.networks), self.about)


def write_data_set(data: DataSet, path: Path) -> None:
    """Write a data set as one Parquet file.

    Raises:
        RecordsError: the loop nests differ in width (of several templates, or of none), or the file can't be written.
        MissingExtraError: without ``pyarrow``.
    """
    pa, pq = _arrow()
    shapes = {task.nest.touched.shape[1:] + task.nest.extra.shape[1:] for task in data.tasks}
    if len(shapes) != 1:
        raise RecordsError(
            f"a data set holds programs of one width, but these have {sorted(shapes) or 'no programs'}; "
            "write one file per template"
        )
    columns: dict[str, Any] = {
        "task": np.repeat(np.arange(len(data.tasks), dtype=np.int32), [len(t) for t in data.tasks]),
        "config": pa.array([row.tolist() for t in data.tasks for row in t.configs], pa.list_(pa.int32())),
        "seconds": np.concatenate([t.seconds for t in data.tasks]),
    }
    widths = {}
    for name in _ARRAYS:
        array = np.concatenate([getattr(t.nest, name) for t in data.tasks])
        widths[name] = array.shape[1:]
        flat = array.reshape(len(array), math.prod(array.shape[1:]))
        columns.update({f"{name}.{i}": flat[:, i] for i in range(flat.shape[1])})
    about = {
        "version": VERSION,
        "about": data.about,
        "widths": widths,
        "tasks": [
            {
                "task": t.task,
                "name": t.name,
                "flop": t.flop,
                "networks": t.networks,
                "target": t.target,
                "template": t.template,
                "knobs": t.configs.shape[1],
                **{name: getattr(t.nest, name) for name in _NAMES},
            }
            for t in data.tasks
        ],
    }
    made = pa.table(columns).replace_schema_metadata({_MARK: json.dumps(about)})
    try:
        pq.write_table(made, path, compression="zstd", compression_level=19)
    except OSError as exc:
        raise RecordsError(f"{path} cannot be written: {exc.strerror or exc}; name another file") from exc


def read_data_set(path: Path) -> DataSet:
    """The data set of a file.

    Raises:
        RecordsError: it is no file that :func:`write_data_set` wrote.
        RecordsVersionError: a newer version wrote it.
        MissingExtraError: without ``pyarrow``.
    """
    _, pq = _arrow()
    try:
        # Opened here, because PyArrow would read a directory as one table of all files in it.
        with open_regular(path, _MOST_BYTES) as file:
            parquet = pq.ParquetFile(file)
            about = parse_json((parquet.schema_arrow.metadata or {})[_MARK])
            version = about["version"]
            if type(version) is not int:
                raise ValueError(f"its version is {version!r:.40}")
            if version > VERSION:
                raise RecordsVersionError(
                    f"this Tilewright reads data sets up to version {VERSION}, but {path} is of version {version}; "
                    "upgrade Tilewright"
                )
            # A few bytes can stand for millions of equal rows.
            if parquet.metadata.num_rows * parquet.metadata.num_columns > _MOST_CELLS:
                raise ValueError(
                    f"it has {parquet.metadata.num_rows:,} rows of {parquet.metadata.num_columns:,} columns"
                )
            stored = parquet.read()
        if not isinstance(about["about"], dict):
            raise ValueError("its origin is no object")
        return DataSet(tuple(_tasks(stored, about)), about["about"])
    except OSError as exc:
        if exc.strerror is None:  # of PyArrow's own, about what the file holds
            raise _not_a_data_set(path, exc) from exc
        raise RecordsError(f"the data set {path} cannot be read: {exc.strerror}; check the path") from exc
    except _DAMAGES as exc:
        raise _not_a_data_set(path, exc) from exc


#: What a file of another form raises, here, in NumPy or in PyArrow (whose own errors are these and ``OSError``).
_DAMAGES = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, MemoryError)


def _not_a_data_set(path: Path, exc: Exception) -> RecordsError:
    reason = f"no {exc}" if isinstance(exc, KeyError) else next(iter(str(exc).splitlines()), type(exc).__name__)
    return RecordsError(
        f"a data set is a Parquet file of 'tilewright records export --programs', but {path} is not: {reason}"
    )


def _tasks(stored: Any, about: dict[str, Any]) -> Iterable[TaskData]:
    columns = {name: stored.column(name) for name in stored.column_names}
    arrays = {}
    for name, kind in _ARRAYS.items():
        width = about["widths"][name]
        if any(type(extent) is not int or extent < 0 for extent in width) or math.prod(width) > len(columns):
            raise ValueError(f"its {name} are {width!r:.60} wide")
        flat = np.empty((len(stored), math.prod(width)), dtype=kind)
        for i in range(flat.shape[1]):
            flat[:, i] = columns[f"{name}.{i}"].to_numpy()
        arrays[name] = flat.reshape(len(stored), *width)
    _check_shapes({name: array.shape[1:] for name, array in arrays.items()})
    if len(columns) != len(stored.column_names) or not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("a column stands there twice, or holds numbers that are not finite")
    if not np.isin(arrays["annotations"], list(Annotation)).all():
        raise ValueError("a loop has an annotation that does not exist")
    if any((arrays[name] < 0).any() for name in _COUNTS):
        raise ValueError("extents, bytes, reuse and operations are no negative numbers")
    places, seconds = columns["task"].to_numpy(), columns["seconds"].to_numpy()
    if seconds.dtype != np.float64 or (seconds <= 0).any() or np.isinf(seconds).any():
        raise ValueError("latencies are positive numbers, or nan")
    configs = columns["config"].to_pylist()
    _check_tasks(about["tasks"], places)
    for number, fields in enumerate(about["tasks"]):
        rows = np.flatnonzero(places == number)
        nest: dict[str, Any] = {name: tuple(fields.pop(name)) for name in _NAMES}
        nest |= {name: array[rows] for name, array in arrays.items()}
        knobs = fields.pop("knobs")
        fields["networks"] = tuple(fields["networks"])
        yield TaskData(
            **fields,
            configs=np.asarray([configs[row] for row in rows.tolist()], dtype=np.int32).reshape(len(rows), knobs),
            nest=LoopNest(**nest),
            seconds=seconds[rows].astype(np.float64),
        )


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ``ValueError`` where the arrays of a :class:`LoopNest`, by name, are not of the same loops and buffers."""
    loops, buffers, arithmetic = shapes["extents"], shapes["touched"], shapes["arithmetic"]
    alike = shapes["axis"] == shapes["annotations"] == loops and shapes["strides"] == shapes["reuse"] == buffers
    if not alike or len(loops) != 1 or len(buffers) != 2 or buffers[1:] != loops or arithmetic != (3,):
        raise ValueError(f"its arrays do not fit together: {shapes!r:.200}")


def _check_tasks(tasks: Any, places: NDArray[Any]) -> None:
    """Raise ``ValueError`` or ``KeyError`` where the fields of a task are of other types, or rows of no task."""
    if not isinstance(tasks, list) or places.dtype != np.int32 or ((places < 0) | (places >= len(tasks))).any():
        raise ValueError("its rows are of tasks that there are not")
    for fields in tasks:
        texts = [fields[name] for name in ("task", "name", "target", "template")]
        lists = [fields[name] for name in ("networks", *_NAMES)]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(each, list) for each in lists):
            raise ValueError("a task's names are no texts")
        if not all(isinstance(text, str) for each in lists for text in each):
            raise ValueError("a task's networks, axes or buffers are no texts")
        if type(fields["knobs"]) is not int or not 0 <= fields["knobs"] < 1000:
            raise ValueError(f"a task has {fields['knobs']!r:.40} knobs")
        flop = fields["flop"]
        if type(flop) not in (int, float) or not 0 <= flop < math.inf:
            raise ValueError(f"a task has {flop!r:.40} FLOP")


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise MissingExtraError("PyArrow", "parquet") from exc
    return pyarrow, pyarrow.parquet
