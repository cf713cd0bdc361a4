"""Recorded tables, and what replays them: a design space, a runner and a store without a compiler or a clock.

A table is a Parquet file with a row per config of a small space: the results of its measurements, and its program in
closed form. It needs neither TVM nor a template, so a later version of the template does not change its meaning.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.features import features
from tilewright.cost.model import CostModel, KnobTable, Programs
from tilewright.errors import RecordsError, SpaceError
from tilewright.measure.outcome import Measurement, Outcome, robust_seconds
from tilewright.records.memory import MemoryStore
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob
from tilewright.space.loop_nest import LoopNest
from tilewright.space.space import Configs, DesignSpace
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["Clock", "RecordedModel", "ReplayRunner", "ReplaySpace", "Table", "read", "replay_store", "rows_of", "write"]

_KNOBS: dict[str, type[Knob]] = {cls.__name__: cls for cls in (ChoiceKnob, OrderKnob, SplitKnob)}
#: The fields of a loop nest with a row per config.
_ARRAYS = ("axis", "extents", "annotations", "touched", "strides", "reuse", "arithmetic", "extra")
_NAMES = ("axes", "buffers", "extra_names")


@dataclass(frozen=True)
class Table:
    """A small space, every config of it measured.

    Attributes:
        name: of the file.
        task: what the programs compute.
        target: ``Target.key`` of the machine.
        template: of the space.
        knobs: of the space.
        default: ``(knobs,)`` the template's default.
        configs: ``(n, knobs)`` every valid config.
        outcomes: the outcome of each config's first OK measurement, or of its first measurement if none is OK.
        repeats: the seconds of the repeats of each measurement of each config.
        elapsed: the ``(n,)`` seconds of building and timing.
        overlap: wall-clock seconds per second of ``elapsed``, because builds run side by side.
        nest: the programs in closed form.
        about: machine, date and command, for people.
    """

    name: str
    task: Task
    target: str
    template: str
    knobs: tuple[Knob, ...]
    default: NDArray[np.int32]
    configs: Configs
    outcomes: tuple[Outcome, ...]
    repeats: tuple[tuple[tuple[float, ...], ...], ...]
    elapsed: NDArray[np.float64]
    overlap: float
    nest: LoopNest
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.configs)

    @cached_property
    def fastest(self) -> NDArray[np.intp]:
        """``(n,)`` the number of each config's fastest measurement; 0 if all failed."""
        return np.asarray(
            [int(np.argmin([robust_seconds(times) for times in passes] or [0])) for passes in self.repeats]
        )

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """``(n,)`` the latency of each config's fastest measurement; nan if the config failed.

        Other programs on the machine only add time, and may disturb a whole pass of minutes.
        """
        pairs = zip(self.repeats, self.fastest.tolist(), strict=True)
        return np.asarray([robust_seconds(passes[number]) if passes else math.nan for passes, number in pairs])

    @cached_property
    def optimum(self) -> float:
        """The lowest latency in seconds."""
        return float(np.nanmin(self.seconds))

    @cached_property
    def rows(self) -> NDArray[np.int32]:
        """The row in the table of each point of the knobs' grid, flat; -1 if the point is not valid."""
        shape = tuple(len(knob) for knob in self.knobs)
        index = np.full(math.prod(shape), -1, dtype=np.int32)
        index[np.ravel_multi_index(tuple(self.configs.T), shape)] = np.arange(len(self))
        return index

    def find(self, configs: Configs) -> NDArray[np.int32]:
        """``(n,)`` the row of each config in the table; -1 if it is not valid."""
        shape = tuple(len(knob) for knob in self.knobs)
        return np.asarray(self.rows[np.ravel_multi_index(tuple(configs.T), shape)])

    @cached_property
    def features(self) -> KnobTable:
        """The features of all configs, without columns that are constant or repeat another one."""
        columns = features(self.nest)
        columns = columns[:, columns.std(axis=0) > 0]
        _, first = np.unique(columns, axis=1, return_index=True)
        return KnobTable(columns[:, np.sort(first)])

    def measurement(self, row: int, number: int = 0) -> Measurement:
        """The ``number``-th recorded measurement of a config; after the last one the first comes again."""
        passes = self.repeats[row]
        outcome = self.outcomes[row]
        return Measurement(
            task=self.task.key,
            target=self.target,
            template=self.template,
            config=tuple(self.configs[row].tolist()),
            outcome=outcome,
            repeats=passes[number % len(passes)] if outcome is Outcome.OK else (),
            elapsed=float(self.elapsed[row]),
        )


def write(table: Table, path: Path) -> None:
    """Write a table as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {f"knob.{knob.name}": table.configs[:, i] for i, knob in enumerate(table.knobs)}
    columns["outcome"] = [outcome.value for outcome in table.outcomes]
    columns["repeats"] = pa.array(table.repeats, pa.list_(pa.list_(pa.float32())))
    columns["elapsed"] = table.elapsed.astype(np.float32)
    shapes = {}
    for name in _ARRAYS:
        array = getattr(table.nest, name)
        shapes[name] = array.shape[1:]
        flat = array.reshape(len(table), -1)
        columns.update({f"nest.{name}.{i}": flat[:, i] for i in range(flat.shape[1])})
    about = {
        "name": table.name,
        "task": dataclasses.asdict(table.task),
        "target": table.target,
        "template": table.template,
        "knobs": [{"class": type(knob).__name__, **dataclasses.asdict(knob)} for knob in table.knobs],
        "default": table.default.tolist(),
        "overlap": table.overlap,
        "nest": {name: getattr(table.nest, name) for name in _NAMES},
        "shapes": shapes,
        "about": table.about,
    }
    made = pa.table(columns).replace_schema_metadata({"tilewright": json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, compression="zstd", compression_level=19)


def read(path: Path) -> Table:
    """Read the table of a file.

    Raises:
        RecordsError: :func:`write` did not write the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.read_table(path)
        about = json.loads((stored.schema.metadata or {})[b"tilewright"])
    except (OSError, KeyError, pa.ArrowInvalid) as exc:
        raise RecordsError(f"a recorded table is a file that bench.record wrote, but {path} is not: {exc}") from exc
    columns = {name: stored.column(name) for name in stored.column_names}

    def array(names: Sequence[str]) -> NDArray[Any]:
        return np.stack([columns[name].to_numpy() for name in names], axis=1)

    knobs = []
    for fields in about["knobs"]:
        cls = _KNOBS[fields.pop("class")]
        fields["choices"] = tuple(tuple(choice) for choice in fields["choices"])
        knobs.append(cls(**fields))
    arrays = {
        name: array([f"nest.{name}.{i}" for i in range(math.prod(shape))]).reshape(len(stored), *shape)
        if math.prod(shape)
        else np.empty((len(stored), *shape), dtype=np.float32)
        for name, shape in about["shapes"].items()
    }
    return Table(
        name=about["name"],
        task=Task(**about["task"]),
        target=about["target"],
        template=about["template"],
        knobs=tuple(knobs),
        default=np.asarray(about["default"], dtype=np.int32),
        configs=array([f"knob.{knob.name}" for knob in knobs]).astype(np.int32),
        outcomes=tuple(Outcome(value) for value in columns["outcome"].to_pylist()),
        repeats=tuple(tuple(tuple(times) for times in passes) for passes in columns["repeats"].to_pylist()),
        elapsed=columns["elapsed"].to_numpy().astype(np.float64),
        overlap=about["overlap"],
        nest=_nest({name: tuple(names) for name, names in about["nest"].items()}, arrays),
        about=about["about"],
    )


def _nest(names: dict[str, Any], arrays: dict[str, Any]) -> LoopNest:
    return LoopNest(**names, **arrays)


class _Rows(LoopNest):
    """Some programs of a table, with their rows. Arrays are taken from the table when they are used."""

    def __init__(self, nest: LoopNest, rows: NDArray[np.int32]) -> None:
        object.__setattr__(self, "_whole", nest)
        object.__setattr__(self, "rows", rows)

    def __getattr__(self, name: str) -> Any:
        """A field of the loop nest."""
        value = getattr(self.__dict__["_whole"], name)
        return value[self.__dict__["rows"]] if isinstance(value, np.ndarray) else value

    def __len__(self) -> int:
        return len(self.__dict__["rows"])


class ReplaySpace:
    """The design space of a table.

    Args:
        table: its configs are the valid ones.
        start: the default config, ``(knobs,)``; by default that of the template.

    Attributes:
        task, template, knobs, has_loop_nest: as of any design space.
    """

    has_loop_nest = True

    def __init__(self, table: Table, start: NDArray[np.int32] | None = None) -> None:
        self._table = table
        self._start = table.default if start is None else start
        self.task = table.task
        self.template = table.template
        self.knobs = table.knobs

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """``(n,)`` whether each config is in the table."""
        return self._table.find(configs) >= 0

    def loop_nest(self, configs: Configs) -> LoopNest:
        """The recorded programs in closed form."""
        return _Rows(self._table.nest, self._table.find(configs))

    def default(self) -> NDArray[np.int32]:
        """The config at which the search starts, ``(knobs,)``."""
        return self._start

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """Raise ``SpaceError``: a table has no programs."""
        raise SpaceError("a recorded table has latencies but no programs; make the space of its task instead")


class RecordedModel:
    """A cost model that scores a whole table after each fit, and then looks scores up.

    The scores are those of the model. A search on a table asks for the same few thousand scores again and again.

    Args:
        model: scores programs.
        table: has the programs.
    """

    def __init__(self, model: CostModel, table: Table) -> None:
        self._model = model
        self._table = table
        self._scores: NDArray[np.float64] = np.zeros(len(table))

    @property
    def ready(self) -> bool:
        """Whether the model is ready."""
        return self._model.ready

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Fit the model."""
        features = self._table.features.values
        self._model.fit([KnobTable(features[rows_of(p)]) for p in programs], seconds)
        self._scores = self._model.predict(self._table.features)

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """``(n,)`` scores."""
        return self._scores[rows_of(programs)]


def rows_of(programs: Programs) -> NDArray[np.int32]:
    """``(n,)`` the rows in the table of the programs of a ReplaySpace."""
    if not isinstance(programs, _Rows):
        raise SpaceError("a recorded model scores the programs of a ReplaySpace only")
    return np.asarray(programs.rows)


class Clock:
    """Simulated seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The simulated seconds so far."""
        return self.now


class ReplayRunner:
    """Looks measurements up in a table. A :class:`~tilewright.measure.runner.Runner`.

    Args:
        table: has the measurements.
        noisy: whether a config gives its recorded measurements one after the other. Otherwise it always gives the
            fastest, so that a search is judged by its proposals and not by disturbances during the recording.
        clock: advances by the recorded time of building and timing. Deadlines are its readings.
        on_measurement: is called with each measurement, as by ``LocalPool``.
    """

    def __init__(
        self,
        table: Table,
        clock: Clock | None = None,
        on_measurement: Callable[[Measurement], None] | None = None,
        *,
        noisy: bool = False,
    ) -> None:
        self.clock = Clock() if clock is None else clock
        self._table = table
        self._on_measurement = on_measurement
        self._noisy = noisy
        self._times = np.zeros(len(table), dtype=np.int64)

    def measure(
        self, space: DesignSpace, configs: Configs, best: float = math.inf, deadline: float = math.inf
    ) -> list[Measurement]:
        """Look ``configs`` up, in order, until the clock reaches the deadline."""
        found = []
        for row in self._table.find(configs).tolist():
            if self.clock.now >= deadline:
                break
            if row < 0:
                raise SpaceError(f"{self._table.name} holds valid configs only")
            number = self._times[row] if self._noisy else self._table.fastest[row]
            found.append(self._table.measurement(row, int(number)))
            self._times[row] += 1
            self.clock.now += float(self._table.elapsed[row]) * self._table.overlap
            if self._on_measurement is not None:
                self._on_measurement(found[-1])
        return found


def replay_store(tables: Sequence[Table]) -> MemoryStore:
    """A store that holds every measurement of some tables."""
    store = MemoryStore()
    for table in tables:
        store.describe(table.task)
        store.add(list(_every(table)))
    return store


def _every(table: Table) -> Iterator[Measurement]:
    for row in range(len(table)):
        for number in range(max(1, len(table.repeats[row]))):
            yield table.measurement(row, number)
