"""The design space of recurrent operators.

parallel for strand: for each step: for block: for tile of rows: registers over k, gates, new state
for strand: for each step: parallel for share of the blocks: for block: for tile of rows: the same

The first program runs strands in parallel, the second one shares of the blocks within each step.
``ops/recurrent/program`` explains the loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.recurrent.cell import KIND, Cell
from tilewright.ops.recurrent.expression import recurrent
from tilewright.ops.recurrent.program import Nest, write_steps
from tilewright.ops.written import read_written, schedule_statements
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.loops import PARALLEL_WORK
from tilewright.space.module import space_errors
from tilewright.space.space import DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["RecurrentSpace", "RecurrentTemplate"]

#: What may run in parallel: nothing, strands, or shares of the blocks within each step.
_SERIAL, _STRANDS, _SHARES = range(3)
#: Vector registers that a tile leaves for weights and states.
_SPARE = 3
#: The most rows and blocks of a tile, and the numbers of unrolled steps of a product.
_MOST_ROWS, _MOST_VECTORS, _UNROLLED = 8, 8, (1, 2, 4, 8)
#: The numbers of multiplications of a strand, and of a step, above which the default runs in parallel. They take 4 and
#: 60 times as long as waking the other threads: a choice.
_STRAND_WORK, _STEP_WORK = 16 * PARALLEL_WORK, 8 * PARALLEL_WORK

_read_cell = FormReader(lambda task: read_written(task, KIND, Cell.parse, recurrent))


class RecurrentSpace(KnobsAlone):
    """The programs of one recurrent operator.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``recurrent/1``.
        knobs: ``tile``: the rows of the batch and the blocks of units in a tile. ``unroll``: the unrolled steps of the
            recurrent product. ``parallel``: what runs in parallel (0: nothing, 1: strands, 2: shares of the blocks
            within each step), and how many: 1, the strands of each direction, or the shares. ``turning``: whether
            every second step runs its blocks in reverse order.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is no recurrent operator.
        SpaceError: the function cannot be read.
    """

    template = "recurrent/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._module, self._cell = _read_cell(task)
        self.knobs: tuple[Knob, ...] = (
            Knob("tile", tuple(self._tiles())),
            ChoiceKnob.of("unroll", [count for count in _UNROLLED if self._cell.hidden % count == 0]),
            Knob("parallel", tuple(self._arrangements())),
            ChoiceKnob.of("turning", [0, 1] if self._cell.steps > 1 and self._cell.blocks > 1 else [0]),
        )

    def _tiles(self) -> list[tuple[int, int]]:
        """Rows and blocks of tiles whose sums fit the registers."""
        cell = self._cell
        most = max(1, (self.target.registers - _SPARE) // max(len(gates) for gates in cell.phases))
        rows, vectors = range(1, min(_MOST_ROWS, cell.batch) + 1), range(1, min(_MOST_VECTORS, cell.blocks) + 1)
        return [(r, v) for r in rows for v in vectors if r * v <= most or r * v == 1]

    def _arrangements(self) -> list[tuple[int, int]]:
        """The choices of the knob ``parallel``."""
        cell, cores = self._cell, self.target.cores
        found = [(_SERIAL, 1)]
        if cores > 1:
            pieces = {-(-cores // cell.directions), -(-2 * cores // cell.directions), 1}
            found += [(_STRANDS, n) for n in sorted(pieces) if n <= cell.batch and n * cell.directions > 1]
            # With one share for each core, weights stay in the core's caches. More shares balance the load better.
            found += [(_SHARES, n) for n in sorted({cores, 4 * cores}) if n <= cell.blocks]
        return found

    def default(self) -> NDArray[np.int32]:
        """The config with the cheapest estimated tile, parallel if there is enough work: an array ``(knobs,)``."""
        parallel = self._choose_arrangement()
        kind, count = self.knobs[2].choices[parallel]
        costs = [self._cost(tile, kind, count) for tile in self.knobs[0].choices]
        chosen = [int(np.argmin(costs)), min(2, len(self.knobs[1]) - 1), parallel, len(self.knobs[3]) - 1]
        return np.asarray(chosen, dtype=np.int32)

    def _choose_arrangement(self) -> int:
        """The default choice of the knob ``parallel``, without any measurement."""
        cell, choices = self._cell, list(self.knobs[2].choices)
        strands = [place for place, (kind, _) in enumerate(choices) if kind == _STRANDS]
        if strands and cell.work >= _STRAND_WORK:
            return strands[0] if len(strands) == 1 else strands[-2]
        shares = (_SHARES, self.target.cores)
        return choices.index(shares) if shares in choices and cell.work // cell.steps >= _STEP_WORK else 0

    def _cost(self, tile: tuple[int, ...], kind: int, count: int) -> float:
        """The estimated cycles of a tile for each necessary product of vectors."""
        cell, (rows, vectors) = self._cell, tile
        strand = -(-cell.batch // count) if kind == _STRANDS else cell.batch
        shares = count if kind == _SHARES else 1
        groups = -(-cell.blocks // vectors)
        computed = -(-strand // rows) * rows * -(-groups // shares) * shares * vectors
        sums = rows * vectors * max(len(gates) for gates in cell.phases)
        # Weights are loaded once for all rows, and states once for all sums of a row. An addition has a latency of 4
        # cycles. Large tiles overlap less with the activations of the previous tile.
        cycles = max(1.0, 1.0 / rows + rows / sums, 4.0 / sums) + 0.02 * sums
        return cycles * computed / (strand * cell.blocks)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. It is not made by scheduling primitives, so its trace is empty.

        Raises:
            SpaceError: the config is not in the space, or TVM cannot make the program.
        """
        (rows, vectors), (unroll,), (kind, count), (turning,) = choices_of(self, config)
        strands, shares = kind == _STRANDS, count if kind == _SHARES else 0
        nest = Nest(count if strands else 1, rows, vectors, unroll, strands, shares, bool(turning))
        with space_errors(f"{self.task.name!r} cannot be scheduled step by step"):
            main = self._module["main"]
            body, buffers = write_steps(self._cell, list(main.params), nest)
            return schedule_statements(main, body, buffers)


class RecurrentTemplate:
    """Schedules the recurrent parts of LSTM, GRU and RNN."""

    name = "recurrent"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the task's function is that of a cell."""
        return task.kind == self.kind and _read_cell.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return RecurrentSpace(task, target)
