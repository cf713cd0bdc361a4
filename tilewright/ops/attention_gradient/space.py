"""The design space of an attention's gradient in one function.

``ops/attention_gradient/program`` explains the loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.attention_gradient.expression import attention_gradient
from tilewright.ops.attention_gradient.form import KIND, AttentionGradient
from tilewright.ops.attention_gradient.nest import Nest
from tilewright.ops.attention_gradient.program import write_gradient
from tilewright.ops.vectors import fit_vector
from tilewright.ops.written import read_written, schedule_statements
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob
from tilewright.space.module import space_errors
from tilewright.space.ranked import RankedSpace
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["AttentionGradientSpace", "AttentionGradientTemplate"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Most vectors of queries in a block; most keys and queries of register tiles; most vectors of columns of one.
_VECTORS, _KEYS, _ROWS, _COLUMNS = 4, 16, 14, 4
#: Steps of a product that are written out, and most multiply-adds of them.
_UNROLLED, _BODY = (1, 2, 4), 256
#: Cycles: of a vector's exponential and slope; of transposing a number; of a register tile besides its sums; of a byte
#: from the second cache.
_EXPONENTIAL, _TURN, _TILE, _L2_BYTE = 11.0, 0.3, 16.0, 1 / 32
#: Multiply-adds (about 10 µs) below which waking other threads costs more than it saves.
_PARALLEL_WORK = 1 << 18


@dataclass(frozen=True)
class _Columns:
    """The meaning of ``n`` configs: ``(n,)`` of each field of a nest that is searched."""

    vectors: Ints
    rows: Ints
    keys: Ints
    columns: Ints
    unroll: Ints
    parallel: Ints


_read_gradient = FormReader(lambda task: read_written(task, KIND, AttentionGradient.parse, attention_gradient))


class AttentionGradientSpace(RankedSpace):
    """The programs of one attention's gradient.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``attention_gradient/1``.
        knobs: ``queries``: vectors of queries in a block, and queries of a register tile of their gradient; ``keys`` of
            a register tile; ``columns``: vectors of columns of a register tile of gradients; ``unroll``: steps of the
            products that give scores which are written out; ``parallel``: whether matrices run in parallel.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is no gradient of an attention.
        SpaceError: the function cannot be read.
    """

    template = "attention_gradient/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._module, form = _read_gradient(task)
        self._form, attention = form, form.attention
        self._narrow = min(attention.depth, attention.width)
        self._lanes, self._column_lanes = (
            fit_vector(attention.queries, target.lanes),
            fit_vector(self._narrow, target.lanes),
        )
        vectors = range(1, min(_VECTORS, -(-attention.queries // self._lanes)) + 1)
        queries = [(v, rows) for v in vectors for rows in range(1, min(_ROWS, v * self._lanes) + 1)]
        columns = min(_COLUMNS, -(-self._narrow // self._column_lanes))
        self.knobs: tuple[Knob, ...] = (
            Knob("queries", tuple(queries)),
            ChoiceKnob.of("keys", range(1, min(_KEYS, attention.keys) + 1)),
            ChoiceKnob.of("columns", range(1, columns + 1)),
            ChoiceKnob.of("unroll", [n for n in _UNROLLED if attention.depth % n == attention.width % n == 0]),
            ChoiceKnob.of("parallel", [0, 1]),
        )

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs fit the registers and the second cache. ``(n,)``."""
        c = self._columns(configs)
        ok: NDArray[np.bool_] = np.ones(len(configs), dtype=np.bool_)
        for rows, vectors in ((c.keys, c.vectors), (c.keys, c.columns), (c.rows, c.columns)):
            ok &= (rows * vectors + vectors + 1 <= self.target.registers) | (rows * vectors == 1)
        ok &= (c.keys * c.vectors * c.unroll <= _BODY) | (c.unroll == 1)
        ok &= (self._bytes(c) <= self.target.l2 * 3 // 4) | (c.vectors == 1)
        return ok

    def _rank(self) -> Configs:
        """Configs by their estimated cycles, fewest first. No two have the same blocks and keys of a tile."""
        configs = self._combine([0, 1, 2])
        configs[:, 3] = len(self.knobs[3]) - 1
        configs[:, 4] = self._form.work >= _PARALLEL_WORK
        configs = configs[self.valid(configs)]
        ranked = configs[self._cycles(self._columns(configs)).argsort(kind="stable")]
        c = self._columns(ranked)
        _, first = np.unique(np.stack([c.vectors, c.keys], 1), axis=0, return_index=True)
        return np.asarray(ranked[np.sort(first)], dtype=np.int32)

    def _bytes(self, c: _Columns) -> Ints:
        """``(n,)`` bytes that a block of queries touches."""
        form, queries = self._form.attention, c.vectors * self._lanes
        columns = form.depth + form.width
        found: Ints = 4 * (2 * queries * (form.keys + columns) + 2 * form.keys * columns)
        return found

    def _cycles(self, c: _Columns) -> Floats:
        """``(n,)`` estimated cycles of all blocks of one matrix."""
        form, target, lanes = self._form.attention, self.target, self._lanes

        def step(rows: Ints, cols: Ints) -> Floats:
            # Two multiply-adds and two loads a cycle; four cycles until a sum is ready for the next addition.
            found: Floats = np.maximum(np.maximum(rows * cols, rows + cols) / 2, 4) + 0.05 * (rows + cols)
            # With 27 of 32 registers for sums, a kernel took 1.3 times as long.
            return found * np.where(rows * cols > target.registers * 3 // 4, 1.3, 1.0)

        def blocks(each: Floats, last: Floats) -> Floats:
            """The sum over the blocks: the whole ones, and the last one, which may have fewer vectors."""
            return whole * each + np.where(rest > 0, last, 0.0)

        size = c.vectors * lanes
        whole, rest = form.queries // size, form.queries % size
        last = -(-rest // lanes)
        tiles = np.ceil(form.keys / c.keys)
        columns = form.depth + form.width
        score = blocks(
            tiles * (columns * step(c.keys, c.vectors) + 2 * _TILE),
            tiles * (columns * step(c.keys, last) + 2 * _TILE),
        )
        groups = sum(np.ceil(-(-n // self._column_lanes) / c.columns) for n in (form.depth, form.width))
        loads = 2 * _TILE + 2 * c.keys * c.columns
        sums = tiles * groups * (form.queries * step(c.keys, c.columns) + np.ceil(form.queries / size) * loads)
        rows = blocks(np.ceil(size / c.rows), np.ceil(rest / c.rows))
        deep = np.ceil(-(-form.depth // self._column_lanes) / c.columns)
        multiply = rows * deep * (form.keys * step(c.rows, c.columns) + _TILE)
        # A block reads all keys, and their gradients; a tile of queries reads all keys once more.
        moved = 4 * form.keys * (np.ceil(form.queries / size) * 4 * columns + rows * form.depth)
        vectors = -(-form.queries // lanes)
        exponential = vectors * form.keys * _EXPONENTIAL + vectors * lanes * 2 * columns * _TURN
        total: Floats = score + sums + multiply + exponential + moved * _L2_BYTE * 0.5
        return total

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. It is not made by scheduling primitives, so its trace is empty.

        Raises:
            SpaceError: the config is not in the space, or TVM cannot make the program.
        """
        choices_of(self, config)  # it is in the space
        c = self._columns(np.asarray(config)[None])
        nest = Nest(
            lanes=self._lanes,
            vectors=int(c.vectors[0]),
            keys=int(c.keys[0]),
            rows=int(c.rows[0]),
            columns=int(c.columns[0]),
            column_lanes=self._column_lanes,
            unroll=int(c.unroll[0]),
            parallel=bool(c.parallel[0]),
        )
        with space_errors(f"{self.task.name!r} cannot be scheduled block by block"):
            main = self._module["main"]
            return schedule_statements(main, *write_gradient(self._form, list(main.params), nest))

    def _columns(self, configs: Configs) -> _Columns:
        queries, keys, columns, unroll, parallel = (
            k.table.take(configs[:, i], axis=0) for i, k in enumerate(self.knobs)
        )
        return _Columns(queries[:, 0], queries[:, 1], keys[:, 0], columns[:, 0], unroll[:, 0], parallel[:, 0])


class AttentionGradientTemplate:
    """Schedules gradients of attention."""

    name = "attention_gradient"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the task's function is that of an attention's gradient."""
        return task.kind == self.kind and _read_gradient.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return AttentionGradientSpace(task, target)
