"""The design space of an MLP in one function: two dense layers whose hidden rows stay in a core's own cache.

``ops/mlp/program`` explains the loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.fetching import LOCAL_SUMS
from tilewright.ops.mlp.form import KIND, Dense, Mlp, read_mlp
from tilewright.ops.mlp.program import Nest, write_mlp
from tilewright.ops.written import schedule_statements
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, divisors
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.ranked import RankedSpace
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["MlpSpace", "MlpTemplate"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: The fewest rows that are computed by one function. With fewer, multiplying waits for the weights.
_FEWEST_ROWS = 8
#: Most blocks of columns of a register tile.
_BLOCKS = 8
#: Chunks of rows that are proposed: these, and these times the cores.
_CHUNKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: Steps of a sum that are written out, and most multiply-adds that are written out for a tile.
_UNROLLED, _BODY = (1, 2, 4), 512
#: The share of the second cache that hidden rows may fill. The rest is for weights.
_SHARE = 0.5
#: Estimated cycles of a register tile besides its products; and of what is fused into the first and into the second
#: layer, for each vector of sums.
_TILE, _AFTER = 20.0, (18.0, 4.0)
#: Bytes of weights that a core gets from beyond its second cache in a cycle. They are fetched while it multiplies.
_FETCHED = 4.0
#: Multiply-adds (about 10 µs) below which waking other threads costs more than it saves.
_PARALLEL_WORK = 1 << 18


@dataclass(frozen=True)
class _Columns:
    """The meaning of ``n`` configs: the knobs of these names, ``(n,)`` each."""

    chunks: Ints
    rows: Ints
    hidden: Ints
    outs: Ints
    unroll: Ints
    parallel: Ints


def _analyse(task: Task) -> Mlp:
    with form_errors(f"{task.name!r} is not two dense layers, one after the other"):
        return read_mlp(task_module(task))


_read = FormReader(_analyse)


class MlpSpace(RankedSpace):
    """The programs of an MLP: two dense layers, one after the other.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``mlp/1``.
        knobs: ``chunks`` of rows; ``rows`` of a register tile; ``hidden`` and ``outs``: blocks of columns of a register
            tile of the first and of the second layer; ``unroll``: steps of a sum that are written out; ``parallel``:
            whether chunks run in parallel.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is no MLP, it has too few rows, or its vectors do not fit a register.
        SpaceError: the function cannot be read.
    """

    template = "mlp/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._form = form = _read(task)
        if not _fits(form, target):
            raise FormError(f"the rows and vectors of an MLP fit {target.mcpu}, but not those of {task.name!r}")
        first, second = form.layers
        counts = {count for c in _CHUNKS for count in (c, c * target.cores) if count <= form.rows}
        # Without counts that cut the rows as a smaller one does.
        chunks = {count for count in counts if -(-form.rows // -(-form.rows // count)) == count}
        self.knobs: tuple[Knob, ...] = (
            ChoiceKnob.of("chunks", sorted(chunks)),
            ChoiceKnob.of("rows", range(1, min(form.rows, target.registers - 2) + 1)),
            ChoiceKnob.of("hidden", _blocks(first)),
            ChoiceKnob.of("outs", _blocks(second)),
            ChoiceKnob.of("unroll", [u for u in _UNROLLED if first.depth % u == 0 and second.depth % u == 0]),
            ChoiceKnob.of("parallel", [0, 1]),
        )

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs fit registers and caches, and are the one config of their program. ``(n,)``."""
        c, registers = self._columns(configs), self.target.registers
        ok: NDArray[np.bool_] = np.ones(len(configs), dtype=np.bool_)
        for blocks in (c.hidden, c.outs):
            ok &= (c.rows * blocks + blocks + 1 <= registers) | (c.rows * blocks == 1)
            ok &= (c.rows * blocks * c.unroll <= _BODY) | (c.unroll == 1)
        chunk = self._chunk(c)
        ok &= (-(-self._form.rows // chunk) == c.chunks) & (c.rows <= chunk)
        ok &= (self._hidden_bytes(c) <= _SHARE * self.target.l2) | (c.chunks == max(self.knobs[0].table[:, 0]))
        ok &= (c.parallel == 0) | (c.chunks > 1)
        return ok

    def _rank(self) -> Configs:
        """Configs by their estimated cycles, fewest first. No two have the same chunks and tiles."""
        configs = self._combine([0, 1, 2, 3])
        configs[:, 4] = len(self.knobs[4]) - 1
        configs[:, 5] = (self._columns(configs).chunks > 1) & (self._form.work >= _PARALLEL_WORK)
        configs = configs[self.valid(configs)]
        return np.asarray(configs[self._cycles(self._columns(configs)).argsort(kind="stable")], dtype=np.int32)

    def _chunk(self, c: _Columns) -> Ints:
        """``(n,)`` rows of a chunk."""
        found: Ints = -(-self._form.rows // c.chunks)
        return found

    def _hidden_bytes(self, c: _Columns) -> Ints:
        """``(n,)`` bytes of the hidden rows of a chunk."""
        found: Ints = 4 * self._chunk(c) * self._form.layers[0].columns
        return found

    def _cycles(self, c: _Columns) -> Floats:
        """``(n,)`` estimated cycles of the core with the most to do."""
        target, tiles = self.target, np.ceil(self._chunk(c) / c.rows)
        busy: Floats = np.zeros(len(tiles))
        for layer, blocks, after in zip(self._form.layers, (c.hidden, c.outs), _AFTER, strict=True):
            sums, loads = c.rows * blocks, c.rows + blocks
            # As for contractions: two multiply-adds and two loads a cycle; four cycles until a sum is ready.
            step = np.maximum(np.maximum(sums, loads) / 2, 4) + 0.05 * (c.rows + 3 * blocks)
            step = np.where(sums > target.registers - 4, 1.03, 1.0) * step
            busy += layer.blocks / blocks * tiles * (layer.depth * step + after * sums + _TILE)
        weights = sum(4.0 * layer.depth * layer.columns for layer in self._form.layers)
        fetched = weights / _FETCHED if weights > target.l2 / 2 else 0.0
        cores = np.where(c.parallel > 0, target.cores, 1)
        total: Floats = np.ceil(c.chunks / cores) * (np.maximum(busy, fetched) + 100)
        return total

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. It is not made by scheduling primitives, so its trace is empty.

        Raises:
            SpaceError: the config is not in the space, or TVM cannot make the program.
        """
        chunks, rows, hidden, outs, unroll, parallel = (choice[0] for choice in choices_of(self, config))
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            nest = Nest(chunks, rows, (hidden, outs), unroll, bool(parallel))
            main = self._form.module["main"].with_attr(LOCAL_SUMS, 1)
            return schedule_statements(main, *write_mlp(self._form, nest))

    def _columns(self, configs: Configs) -> _Columns:
        return _Columns(*self._values(configs))


def _blocks(layer: Dense) -> list[int]:
    """How many blocks of columns a register tile of a layer may have."""
    return [count for count in divisors(layer.blocks) if count <= _BLOCKS]


def _fits(form: Mlp, target: Target) -> bool:
    """Whether vectors fit a register, and there are enough rows."""
    return form.rows >= _FEWEST_ROWS and all(2 <= layer.lanes <= target.lanes for layer in form.layers)


class MlpTemplate:
    """Schedules MLPs as one function: two dense layers, of which nothing but the second reads the rows of the first."""

    name = "mlp"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is two such layers, with rows and vectors of a fitting size."""
        return task.kind == self.kind and _read.fits(task) and _fits(_read(task), target)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return MlpSpace(task, target)
