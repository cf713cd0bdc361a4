"""The design space of attention in one function: a block of queries after the other, with its scores in the cache.

``ops/attention/program`` explains the loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.attention.elements import Nest
from tilewright.ops.attention.expression import attention
from tilewright.ops.attention.form import KIND, Attention
from tilewright.ops.attention.program import write_attention
from tilewright.ops.vectors import fit_vector
from tilewright.ops.written import read_written, schedule_statements
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, divisors
from tilewright.space.module import space_errors
from tilewright.space.ranked import RankedSpace
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["AttentionSpace", "AttentionTemplate"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Most vectors of queries in a block; most keys and most queries of a register tile; most vectors of columns of one.
_VECTORS, _KEYS, _ROWS, _COLUMNS = 4, 24, 16, 4
#: Keys in a stripe, about: a stripe is a multiple of a tile. 0: all keys are one stripe.
_STRIPES = (0, 512, 256, 128)
#: Parts into which the blocks of a matrix are cut.
_PARTS = (1, 2, 3, 4, 8)
#: Steps of a product that are written out, and most multiply-adds of them.
_UNROLLED, _BODY = (1, 2, 4), 256
#: Cycles: of the exponential of a vector, its sum and its largest score; of transposing a number; of a register tile
#: besides its sums; of a byte from the second cache; of copying a vector.
_EXPONENTIAL, _TURN, _TILE, _L2_BYTE, _COPY = 8.5, 0.3, 16.0, 1 / 32, 2.0
#: Factor for the time of products whose keys and values do not lie side by side: rows that are a power of two of bytes
#: apart share few places of a cache, and each has a page of its own. 1,024 keys, 6 KiB apart, took 1.2 times as long.
_APART = 1.05
#: Multiply-adds (about 10 µs) below which waking other threads costs more than it saves.
_PARALLEL_WORK = 1 << 18


@dataclass(frozen=True)
class _Columns:
    """The meaning of ``n`` configs.

    Attributes:
        vectors, rows: ``(n,)`` vectors of queries in a block, and queries of a register tile of results.
        keys: ``(n,)`` keys of a register tile of scores.
        columns: ``(n,)`` vectors of columns of a register tile of results.
        stripe: ``(n,)`` keys in a stripe.
        parts: ``(n,)`` parts of a matrix.
        unroll, copies, parallel: ``(n,)`` the knobs of these names.
    """

    vectors: Ints
    rows: Ints
    keys: Ints
    columns: Ints
    stripe: Ints
    unroll: Ints
    parts: Ints
    copies: Ints
    parallel: Ints


_read_attention = FormReader(lambda task: read_written(task, KIND, Attention.parse, attention))


class AttentionSpace(RankedSpace):
    """The programs of one attention.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``attention/1``.
        knobs: ``queries``: vectors of queries in a block, and queries of a register tile of results; ``keys`` of a
            register tile of scores; ``columns``: vectors of columns of a register tile of results; ``stripe``: keys in
            a stripe, about (0: all); ``unroll``: steps of the product of queries and keys that are written out;
            ``parts`` into which the blocks of a matrix are cut (0: each block is one); ``copies``: whether each part
            copies the keys and the values; ``parallel``: whether parts run in parallel.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is no attention.
        SpaceError: the function cannot be read.
    """

    template = "attention/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._module, form = _read_attention(task)
        self._form = form
        self._lanes, self._column_lanes = fit_vector(form.queries, target.lanes), fit_vector(form.width, target.lanes)
        vectors = range(1, min(_VECTORS, -(-form.queries // self._lanes)) + 1)
        queries = [(v, rows) for v in vectors for rows in divisors(v * self._lanes) if rows <= _ROWS]
        columns = min(_COLUMNS, -(-form.width // self._column_lanes))
        self.knobs: tuple[Knob, ...] = (
            Knob("queries", tuple(queries)),
            ChoiceKnob.of("keys", range(1, min(_KEYS, form.keys) + 1)),
            ChoiceKnob.of("columns", range(1, columns + 1)),
            ChoiceKnob.of("stripe", [keys for keys in _STRIPES if keys < form.keys]),
            ChoiceKnob.of("unroll", [count for count in _UNROLLED if form.depth % count == 0]),
            ChoiceKnob.of("parts", [0, *(parts for parts in _PARTS if parts < -(-form.queries // self._lanes))]),
            ChoiceKnob.of("copies", [0, 1]),
            ChoiceKnob.of("parallel", [0, 1]),
        )

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs fit the registers and the second cache, and are the one config of their program. ``(n,)``."""
        c = self._columns(configs)
        registers = self.target.registers
        scores, results = c.keys * c.vectors, c.rows * c.columns
        ok: NDArray[np.bool_] = (scores + c.vectors + 1 <= registers) | (scores == 1)
        ok &= (results + c.columns + 1 <= registers) | (results == 1)
        ok &= (scores * c.unroll <= _BODY) | (c.unroll == 1)
        # Scores and results of a block, and the keys or the values of a stripe.
        ok &= (self._bytes(c) <= self.target.l2 * 3 // 4) | (configs[:, 3] == len(self.knobs[3]) - 1)
        # A stripe that holds all keys is the same as none.
        ok &= (configs[:, 3] == 0) | (c.stripe < self._form.keys)
        # A block for each part is written in one way, and does not copy what it reads once.
        blocks = -(-self._vectors // c.vectors)
        ok &= (configs[:, 5] == 0) | ((c.parts < blocks) & (-(-blocks // -(-blocks // c.parts)) == c.parts))
        ok &= (c.copies == 0) | (configs[:, 5] > 0)
        return ok

    def _rank(self) -> Configs:
        """Configs by their estimated cycles, fewest first. No two have the same blocks and tiles."""
        configs = self._combine([0, 1, 2, 3, 5, 6])
        configs[:, 4] = len(self.knobs[4]) - 1
        configs[:, 7] = self._form.work >= _PARALLEL_WORK
        configs = configs[self.valid(configs)]
        ranked = configs[self._cycles(self._columns(configs)).argsort(kind="stable")]
        _, first = np.unique(ranked[:, [0, 2, 3]], axis=0, return_index=True)
        return np.asarray(ranked[np.sort(first)], dtype=np.int32)

    def _bytes(self, c: _Columns) -> Ints:
        """``(n,)`` bytes that a block of queries touches in a stripe."""
        form, queries = self._form, c.vectors * self._lanes
        found: Ints = 4 * (queries * (c.stripe + c.keys + form.depth) + c.stripe * max(form.depth, form.width))
        return found

    def _cycles(self, c: _Columns) -> Floats:
        """``(n,)`` estimated cycles of all blocks of one matrix, if all cores have as much to do."""
        form, target = self._form, self.target
        lanes, vectors = self._lanes, self._vectors
        share = 0.5 + 0.5 * c.vectors * lanes / form.keys if form.causal else 1.0
        keys = np.minimum(form.keys * share, form.keys)

        def step(rows: Ints, cols: Ints) -> Floats:
            # Two multiply-adds and two loads a cycle; four cycles until a sum is ready for the next addition.
            found: Floats = np.maximum(np.maximum(rows * cols, rows + cols) / 2, 4) + 0.05 * (rows + cols)
            return found * np.where(rows * cols > target.registers - 4, 1.1, 1.0)

        tiles = np.ceil(keys / c.keys)
        score = vectors / c.vectors * tiles * (form.depth * step(c.keys, c.vectors) + 2 * c.keys * c.vectors + _TILE)
        exponential = vectors * keys * _EXPONENTIAL
        groups = np.ceil(-(-form.width // self._column_lanes) / c.columns)
        stripes = np.ceil(keys / c.stripe)
        multiply = vectors * lanes / c.rows * groups * (keys * step(c.rows, c.columns) + stripes * _TILE)
        again = np.where(stripes > 1, stripes, 0) * vectors * lanes * -(-form.width // self._column_lanes) * 1.5
        moved = vectors / c.vectors * (keys / c.stripe) * self._bytes(c) * 1.5
        far = np.where(self._bytes(c) > 0.9 * target.l1, moved * _L2_BYTE, 0.0)
        turn = vectors * lanes * form.depth * _TURN
        copy = c.parts * form.keys * -(-(form.depth + form.width) // lanes) * _COPY * c.copies
        products = np.where(self._apart & (c.copies == 0), _APART, 1.0) * (score + multiply)
        iterations = form.items * c.parts
        balance = np.where(c.parallel > 0, np.ceil(iterations / target.cores) / (iterations / target.cores), 1.0)
        total: Floats = balance * (products + exponential + again + far + turn + copy)
        return total

    @property
    def _vectors(self) -> int:
        """Vectors of queries of a matrix."""
        return -(-self._form.queries // self._lanes)

    @property
    def _apart(self) -> bool:
        """Whether the keys do not lie side by side."""
        dims = self._form.k
        return [place[0] for extent, place in dims[-2:] if extent > 1] != ["key", "depth"]

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
            stripe=int(c.stripe[0]),
            unroll=int(c.unroll[0]),
            parts=int(c.parts[0]),
            copies=bool(c.copies[0]),
            parallel=bool(c.parallel[0]),
        )
        with space_errors(f"{self.task.name!r} cannot be scheduled block by block"):
            main = self._module["main"]
            return schedule_statements(main, *write_attention(self._form, list(main.params), nest))

    def _columns(self, configs: Configs) -> _Columns:
        queries, keys, columns, stripe, unroll, parts, copies, parallel = (
            k.table.take(configs[:, i], axis=0) for i, k in enumerate(self.knobs)
        )
        blocks = -(-self._vectors // queries[:, 0])
        return _Columns(
            vectors=queries[:, 0],
            rows=queries[:, 1],
            keys=keys[:, 0],
            columns=columns[:, 0],
            stripe=_stripe(stripe[:, 0], keys[:, 0], self._form.keys),
            unroll=unroll[:, 0],
            parts=np.where(parts[:, 0] > 0, parts[:, 0], blocks),
            copies=copies[:, 0],
            parallel=parallel[:, 0],
        )


def _stripe(about: Ints, keys: Ints, all_keys: int) -> Ints:
    """``(n,)`` keys in stripes of about so many, which whole tiles of ``keys`` fill; all keys for 0."""
    found: Ints = np.where(about == 0, all_keys, -(-about // keys) * keys)
    return found


class AttentionTemplate:
    """Schedules attention."""

    name = "attention"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the task's function is that of an attention."""
        return task.kind == self.kind and _read_attention.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return AttentionSpace(task, target)
