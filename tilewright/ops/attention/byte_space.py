"""The design space of attention of bytes: a block of queries after the other, with its scores in the cache.

``ops/attention/byte_program`` explains the loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.attention.byte_block import ByteNest
from tilewright.ops.attention.byte_expression import byte_attention
from tilewright.ops.attention.byte_form import BYTE_KIND, ByteAttention
from tilewright.ops.attention.byte_program import write_byte_attention
from tilewright.ops.contraction.dot_products import PAIR, QUAD, find_dot_product
from tilewright.ops.vectors import fit_vector
from tilewright.ops.written import read_written, schedule_statements
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, divisors
from tilewright.space.module import space_errors
from tilewright.space.ranked import RankedSpace
from tilewright.space.space import PLAIN_CODE, Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["ByteAttentionSpace", "ByteAttentionTemplate"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Most vectors of queries in a block; most keys and most queries of a register tile; most vectors of columns of one.
_VECTORS, _KEYS, _ROWS, _COLUMNS = 4, 24, 16, 4
#: Parts into which the blocks of a matrix are cut.
_PARTS = (1, 2, 3, 4, 8)
#: Quads of a product that are written out, and most dot products of them.
_UNROLLED, _BODY = (1, 2, 4), 256
#: Cycles: of rounding a vector of scores, its exponential and its bytes; of a register tile besides its sums; of
#: a quad of a query that is turned; of a quad of keys and a vector of columns that is packed; of a key's sum.
_SCORE, _TILE, _TURN, _PACK, _SUM = 20.0, 16.0, 2.0, 8.0, 16.0
#: Multiply-adds (about 5 µs) below which waking other threads costs more than it saves.
_PARALLEL_WORK = 1 << 19


@dataclass(frozen=True)
class _Columns:
    """The meaning of ``n`` configs.

    Attributes:
        vectors, rows: ``(n,)`` vectors of queries in a block, and queries of a register tile of results.
        keys: ``(n,)`` keys of a register tile of scores.
        columns: ``(n,)`` vectors of columns of a register tile of results.
        parts: ``(n,)`` parts of a matrix.
        unroll, parallel: ``(n,)`` the knobs of these names.
    """

    vectors: Ints
    rows: Ints
    keys: Ints
    columns: Ints
    unroll: Ints
    parts: Ints
    parallel: Ints


_read_byte_attention = FormReader(lambda task: read_written(task, BYTE_KIND, ByteAttention.parse, byte_attention))


class ByteAttentionSpace(RankedSpace):
    """The programs of one attention of bytes.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for. Plain code multiplies bytes if it has no instruction for that.
        template: ``byte_attention/2`` where bytes are widened to pairs of int16, otherwise ``byte_attention/1``.
        knobs: ``queries``: vectors of queries in a block, and queries of a register tile of results; ``keys`` of a
            register tile of scores; ``columns``: vectors of columns of a register tile of results; ``unroll``: quads of
            the product of queries and keys that are written out; ``parts`` into which the blocks of a matrix are cut
            (0: each block is one); ``parallel``: whether parts run in parallel.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is no attention of bytes.
        SpaceError: the function cannot be read.
    """

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._module, form = _read_byte_attention(task)
        self._form = form
        self._lanes, self._column_lanes = fit_vector(form.queries, target.lanes), fit_vector(form.width, target.lanes)
        self.template = "byte_attention/2" if self._together == PAIR else "byte_attention/1"
        self.products = self._together
        vectors = range(1, min(_VECTORS, self._vectors) + 1)
        queries = [(v, rows) for v in vectors for rows in divisors(v * self._lanes) if rows <= _ROWS]
        columns = min(_COLUMNS, -(-form.width // self._column_lanes))
        self.knobs: tuple[Knob, ...] = (
            Knob("queries", tuple(queries)),
            ChoiceKnob.of("keys", range(1, min(_KEYS, form.keys) + 1)),
            ChoiceKnob.of("columns", range(1, columns + 1)),
            ChoiceKnob.of("unroll", [count for count in _UNROLLED if form.depth // QUAD % count == 0]),
            ChoiceKnob.of("parts", [0, *(parts for parts in _PARTS if parts < self._vectors)]),
            ChoiceKnob.of("parallel", [0, 1]),
        )

    @property
    def instruction(self) -> str:
        """The instruction that multiplies queries by keys, or ``PLAIN_CODE``."""
        dot = find_dot_product(self.target, self._lanes, self._together)
        return PLAIN_CODE if dot is None else dot.name

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs fit the registers, and are the one config of their program. ``(n,)``."""
        c = self._columns(configs)
        registers = self.target.registers
        scores, results = c.keys * c.vectors, c.rows * c.columns
        ok: NDArray[np.bool_] = (scores + c.vectors + 1 <= registers) | (scores == 1)
        ok &= (results + c.columns + 1 <= registers) | (results == 1)
        ok &= (scores * c.unroll <= _BODY) | (c.unroll == 1)
        # A block for each part is written in one way.
        blocks = -(-self._vectors // c.vectors)
        ok &= (configs[:, 4] == 0) | ((c.parts < blocks) & (-(-blocks // -(-blocks // c.parts)) == c.parts))
        return ok

    def _rank(self) -> Configs:
        """Configs by their estimated cycles, fewest first. No two have the same tiles."""
        configs = self._combine([0, 1, 2, 4])
        configs[:, 3] = len(self.knobs[3]) - 1
        configs[:, 5] = self._form.work >= _PARALLEL_WORK
        configs = configs[self.valid(configs)]
        ranked = configs[self._cycles(self._columns(configs)).argsort(kind="stable")]
        _, first = np.unique(ranked[:, [0, 1, 2]], axis=0, return_index=True)
        return np.asarray(ranked[np.sort(first)], dtype=np.int32)

    def _cycles(self, c: _Columns) -> Floats:
        """``(n,)`` estimated cycles of all blocks of one matrix, if all cores have as much to do."""
        form, target, lanes, vectors = self._form, self.target, self._lanes, self._vectors

        def step(rows: Ints, cols: Ints) -> Floats:
            # Two dot products and two loads a cycle; five cycles until a sum is ready for the next addition.
            found: Floats = np.maximum(np.maximum(rows * cols, rows + cols) / 2, 5) + 0.05 * (rows + cols)
            return found * np.where(rows * cols > target.registers - 4, 1.1, 1.0)

        tiles = np.ceil(form.keys / c.keys)
        score = vectors / c.vectors * tiles * (form.depth // self._together * step(c.keys, c.vectors) + _TILE)
        groups = np.ceil(-(-form.width // self._column_lanes) / c.columns)
        quads = -(-form.keys // self._together)
        multiply = (
            vectors * lanes / c.rows * groups * (quads * step(c.rows, c.columns) + 4 * c.rows * c.columns + _TILE)
        )
        others = vectors * (form.keys * _SCORE + lanes * form.depth // QUAD * _TURN)
        shared = c.parts * (form.keys * _SUM + quads * -(-form.width // self._column_lanes) * _PACK)
        total: Floats = self._balance(c) * (score + multiply + others + shared)
        return total

    def _balance(self, c: _Columns) -> Floats:
        """``(n,)`` the work of the busiest core, which has the first parts, by the average. Last parts are short."""
        items, vectors, cores = self._form.items, self._vectors, self.target.cores
        blocks = -(-vectors // c.vectors)
        each = -(-blocks // c.parts) * c.vectors
        mine = -(-items * c.parts // cores)
        short = mine // c.parts
        busiest = (mine - short) * each + short * (vectors - (c.parts - 1) * each)
        found: Floats = np.where(c.parallel > 0, busiest / (items * vectors / cores), 1.0)
        return found

    @cached_property
    def _together(self) -> int:
        """The numbers that an instruction multiplies at once: pairs of int16 where bytes would be widened to these."""
        found = [find_dot_product(self.target, lanes) for lanes in (self._lanes, self._column_lanes)]
        widened = all(dot is not None and dot.name == "vpmaddwd" for dot in found)
        return PAIR if widened else QUAD

    @property
    def _vectors(self) -> int:
        """Vectors of queries of a matrix."""
        return -(-self._form.queries // self._lanes)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. It is not made by scheduling primitives, so its trace is empty.

        Raises:
            SpaceError: the config is not in the space, or TVM cannot make the program.
        """
        choices_of(self, config)  # it is in the space
        c = self._columns(np.asarray(config)[None])
        nest = ByteNest(
            lanes=self._lanes,
            vectors=int(c.vectors[0]),
            keys=int(c.keys[0]),
            rows=int(c.rows[0]),
            columns=int(c.columns[0]),
            column_lanes=self._column_lanes,
            unroll=int(c.unroll[0]),
            parts=int(c.parts[0]),
            parallel=bool(c.parallel[0]),
            score_product=find_dot_product(self.target, self._lanes, self._together),
            result_product=find_dot_product(self.target, self._column_lanes, self._together),
        )
        with space_errors(f"{self.task.name!r} cannot be scheduled block by block"):
            main = self._module["main"]
            return schedule_statements(main, *write_byte_attention(self._form, list(main.params), nest))

    def _columns(self, configs: Configs) -> _Columns:
        queries, keys, columns, unroll, parts, parallel = (
            k.table.take(configs[:, i], axis=0) for i, k in enumerate(self.knobs)
        )
        blocks = -(-self._vectors // queries[:, 0])
        return _Columns(
            vectors=queries[:, 0],
            rows=queries[:, 1],
            keys=keys[:, 0],
            columns=columns[:, 0],
            unroll=unroll[:, 0],
            parts=np.where(parts[:, 0] > 0, parts[:, 0], blocks),
            parallel=parallel[:, 0],
        )


class ByteAttentionTemplate:
    """Schedules attention of bytes."""

    name = "byte_attention"
    kind = BYTE_KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the task's function is that of an attention of bytes."""
        return task.kind == self.kind and _read_byte_attention.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return ByteAttentionSpace(task, target)
