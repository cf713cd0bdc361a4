"""Data sets: measured programs of many tasks, on which cost models are trained and judged, in one Parquet file.

A row is a measured config, with its latency and its program in closed form. So a data set needs neither TVM nor the
templates that made its programs. A later version of a template does not change its meaning.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MissingExtraError, RecordsError, RecordsVersionError
from tilewright.reading import open_regular, parse_json
from tilewright.space.loop_nest import Annotation, LoopNest
from tilewright.writing import replace_file

if TYPE_CHECKING:
    import pyarrow

__all__ = ["VERSION", "DataSet", "TaskData", "read_data_set", "write_data_set"]

#: The version of the file's format. A change that an older reader would misread raises it.
VERSION = 1
_MARK = b"tilewright-dataset"
#: The fields of a loop nest that have a row per program, and their dtypes.
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
#: The fields that count something, and so are not negative.
_COUNTS = ("extents", "touched", "reuse", "arithmetic")
#: The most bytes of a file, and the most cells of its table: 100 times those of the largest data set.
_MOST_BYTES, _MOST_CELLS = 1 << 30, 1 << 29


@dataclass(frozen=True)
class TaskData:
    """The measured programs of one task on one target.

    Attributes:
        task: ``Task.key``.
        name: of the task, for people.
        flop: floating-point operations of one call.
        networks: the networks that have the task. A model is judged on networks that have none of its tasks.
        target: ``Target.key``.
        template: name and version of the template.
        configs: ``(n, knobs)``, each once.
        nest: the programs.
        seconds: ``(n,)`` robust latencies in seconds; nan if a program failed.
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
        """``(n,)`` whether each program has a latency."""
        return np.isfinite(self.seconds)


@dataclass(frozen=True)
class DataSet:
    """The measured programs of many tasks.

    Attributes:
        tasks: the tasks, no two with the same key, target and template.
        about: the machine, the date, the command, and the features of the target, ready for JSON.
    """

    tasks: tuple[TaskData, ...]
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of all networks, sorted."""
        return tuple(sorted({network for task in self.tasks for network in task.networks}))

    def without(self, network: str) -> DataSet:
        """The tasks that ``network`` does not have."""
        return DataSet(tuple(t for t in self.tasks if network not in t.networks), self.about)

    def of(self, network: str) -> DataSet:
        """The tasks of ``network``."""
        return DataSet(tuple(t for t in self.tasks if network in t.networks), self.about)


def write_data_set(data: DataSet, path: Path) -> None:
    """Write a data set as one Parquet file.

    Raises:
        RecordsError: the loop nests differ in width, there are none, or the file cannot be written.
        MissingExtraError: PyArrow is not installed.
    """
    pa, pq = _import_arrow()
    shapes = {task.nest.touched.shape[1:] + task.nest.extra.shape[1:] for task in data.tasks}
    if len(shapes) != 1:
        raise RecordsError(
            f"a data set holds programs of one width, but these have {sorted(shapes) or 'no programs'}; "
            "write one file per template"
        )
    columns: dict[str, object] = {
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
        with replace_file(path) as part:
            pq.write_table(made, part, compression="zstd", compression_level=19)
    except OSError as exc:
        raise RecordsError(f"{path} cannot be written: {exc.strerror or exc}; name another file") from exc


def read_data_set(path: Path) -> DataSet:
    """Read the data set of a file.

    Raises:
        RecordsError: :func:`write_data_set` did not write the file.
        RecordsVersionError: a newer version of Tilewright wrote it.
        MissingExtraError: PyArrow is not installed.
    """
    _, pq = _import_arrow()
    try:
        # PyArrow is given an open file, because it would read a directory as one table of all files in it.
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
            # A few bytes can encode millions of equal rows.
            if parquet.metadata.num_rows * parquet.metadata.num_columns > _MOST_CELLS:
                raise ValueError(
                    f"it has {parquet.metadata.num_rows:,} rows of {parquet.metadata.num_columns:,} columns"
                )
            stored = parquet.read()
        if not isinstance(about["about"], dict):
            raise ValueError("its origin is no object")
        return DataSet(tuple(_read_tasks(stored, about["widths"], about["tasks"])), about["about"])
    except OSError as exc:
        if exc.strerror is None:  # PyArrow's own error, about the content of the file
            raise _not_a_data_set(path, exc) from exc
        raise RecordsError(f"the data set {path} cannot be read: {exc.strerror}; check the path") from exc
    except _DAMAGES as exc:
        raise _not_a_data_set(path, exc) from exc


#: The errors that a file of another form raises, here, in NumPy, or in PyArrow, which raises these and ``OSError``.
_DAMAGES = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, MemoryError)


def _not_a_data_set(path: Path, exc: Exception) -> RecordsError:
    reason = f"no {exc}" if isinstance(exc, KeyError) else next(iter(str(exc).splitlines()), type(exc).__name__)
    return RecordsError(
        f"a data set is a Parquet file of 'tilewright records export --programs', but {path} is not: {reason}"
    )


@dataclass(frozen=True)
class _Header:
    """What the file's metadata say of a task; the fields are those of :class:`TaskData` and of :class:`LoopNest`."""

    task: str
    name: str
    flop: float
    networks: tuple[str, ...]
    target: str
    template: str
    knobs: int
    axes: tuple[str, ...]
    buffers: tuple[str, ...]
    extra_names: tuple[str, ...]


def _read_tasks(stored: pyarrow.Table, widths: Mapping[str, list[int]], tasks: object) -> Iterator[TaskData]:
    columns = {name: stored.column(name) for name in stored.column_names}
    arrays = {}
    for name, kind in _ARRAYS.items():
        width = widths[name]
        if any(type(extent) is not int or extent < 0 for extent in width) or math.prod(width) > len(columns):
            raise ValueError(f"its {name} are {width!r:.60} wide")
        flat = np.empty((len(stored), math.prod(width)), dtype=kind)
        for i in range(flat.shape[1]):
            flat[:, i] = columns[f"{name}.{i}"].to_numpy()
        arrays[name] = flat.reshape(len(stored), *width)
    _check_shapes({name: array.shape[1:] for name, array in arrays.items()})
    if len(columns) != len(stored.column_names) or not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("a column occurs twice, or holds numbers that are not finite")
    if not np.isin(arrays["annotations"], list(Annotation)).all():
        raise ValueError("a loop has an annotation that does not exist")
    if any((arrays[name] < 0).any() for name in _COUNTS):
        raise ValueError("extents, bytes, reuse and operations are no negative numbers")
    places, seconds = columns["task"].to_numpy(), columns["seconds"].to_numpy()
    if seconds.dtype != np.float64 or (seconds <= 0).any() or np.isinf(seconds).any():
        raise ValueError("latencies are positive numbers, or nan")
    configs = columns["config"].to_pylist()
    if not isinstance(tasks, list) or places.dtype != np.int32 or ((places < 0) | (places >= len(tasks))).any():
        raise ValueError("its rows belong to tasks that do not exist")
    for number, header in enumerate([_read_header(fields) for fields in tasks]):
        rows = np.flatnonzero(places == number)
        yield TaskData(
            task=header.task,
            name=header.name,
            flop=header.flop,
            networks=header.networks,
            target=header.target,
            template=header.template,
            configs=np.asarray([configs[row] for row in rows.tolist()], dtype=np.int32).reshape(
                len(rows), header.knobs
            ),
            nest=LoopNest(
                axes=header.axes,
                buffers=header.buffers,
                extra_names=header.extra_names,
                products=1,
                halves=False,
                **{name: array[rows] for name, array in arrays.items()},
            ),
            seconds=seconds[rows].astype(np.float64),
        )


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ``ValueError`` unless the arrays of a :class:`LoopNest`, by name, are of the same loops and buffers."""
    loops, buffers, arithmetic = shapes["extents"], shapes["touched"], shapes["arithmetic"]
    alike = shapes["axis"] == shapes["annotations"] == loops and shapes["strides"] == shapes["reuse"] == buffers
    if not alike or len(loops) != 1 or len(buffers) != 2 or buffers[1:] != loops or arithmetic != (3,):
        raise ValueError(f"its arrays do not fit together: {shapes!r:.200}")


def _read_header(fields: object) -> _Header:
    """A task's header. Raises ``ValueError`` or ``KeyError`` if a field is missing or of another type."""
    if not isinstance(fields, dict):
        raise ValueError("a task is no object")
    texts = {name: fields[name] for name in ("task", "name", "target", "template")}
    lists = {name: fields[name] for name in ("networks", *_NAMES)}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("a task's names are no texts")
    if not all(isinstance(each, list) for each in lists.values()):
        raise ValueError("a task's names are no texts")
    if not all(isinstance(text, str) for each in lists.values() for text in each):
        raise ValueError("a task's networks, axes or buffers are no texts")
    knobs, flop = fields["knobs"], fields["flop"]
    if type(knobs) is not int or not 0 <= knobs < 1000:
        raise ValueError(f"a task has {knobs!r:.40} knobs")
    if type(flop) not in (int, float) or not 0 <= flop < math.inf:
        raise ValueError(f"a task has {flop!r:.40} FLOP")
    return _Header(
        task=texts["task"],
        name=texts["name"],
        flop=flop,
        networks=tuple(lists["networks"]),
        target=texts["target"],
        template=texts["template"],
        knobs=knobs,
        axes=tuple(lists["axes"]),
        buffers=tuple(lists["buffers"]),
        extra_names=tuple(lists["extra_names"]),
    )


def _import_arrow() -> tuple[ModuleType, ModuleType]:
    """PyArrow, and its module of Parquet files."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise MissingExtraError("PyArrow", "parquet") from exc
    return pyarrow, pyarrow.parquet
