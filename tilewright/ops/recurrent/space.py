"""The design space of recurrent operators.

parallel for strand: for each step: for block: for tile of rows: registers over k, gates, new state
for strand: for each step: parallel for share of the blocks: for block: for tile of rows: the same

``ops/recurrent/program`` shows the loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.mark import take_mark
from tilewright.ops.recurrent.cell import KIND, Cell
from tilewright.ops.recurrent.expression import recurrent
from tilewright.ops.recurrent.program import Nest, write_steps
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.loops import PARALLEL_WORK
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.space import DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.s_tir import Schedule
    from tvm.tirx import PrimFunc

__all__ = ["RecurrentSpace", "RecurrentTemplate"]

#: What may run in parallel: nothing, strands, or shares of the blocks within each step.
_SERIAL, _STRANDS, _SHARES = range(3)
#: Vector registers that a tile leaves for weights and states.
_SPARE = 3
#: Most rows and blocks of a tile, and the steps of a product that may be written out.
_MOST_ROWS, _MOST_VECTORS, _UNROLLED = 8, 8, (1, 2, 4, 8)
#: Multiplications of a strand, and of a step, above which the default runs in parallel: a choice, 4 and 60 times what
#: waking the other threads costs.
_STRAND_WORK, _STEP_WORK = 16 * PARALLEL_WORK, 8 * PARALLEL_WORK


def _analyse(task: Task) -> tuple[IRModule, Cell]:
    """The task's function, and the cell that it computes."""
    from tvm_ffi import structural_equal

    module = task_module(task)
    with form_errors(f"{task.name!r} is no recurrent operator"):
        main = module["main"]
        if main.attrs is None or f"tilewright.{KIND}" not in main.attrs:
            raise FormError(f"the function of a recurrent operator describes its cell, but {task.name!r} does not")
        cell = Cell.parse(str(main.attrs[f"tilewright.{KIND}"]))
        if not structural_equal(_bare(main), _bare(take_mark(recurrent(cell))[0]), map_free_vars=True):
            raise FormError(f"the function of {task.name!r} is another than that of the cell that it describes")
    return module, cell


def _bare(function: PrimFunc) -> PrimFunc:
    from tvm import tirx

    return tirx.PrimFunc(function.params, function.body, function.ret_type)


_read_cell = FormReader(_analyse)


class RecurrentSpace(KnobsAlone):
    """The programs of one recurrent operator.

    Attributes:
        task: the task that is scheduled.
        target: the machine it is scheduled for.
        template: ``recurrent/1``.
        knobs: ``tile``, its rows of the batch and its blocks of units; ``unroll``, the steps of the recurrent product
            that are written out; ``parallel``, what runs in parallel (0: nothing, 1: strands, 2: shares of the blocks
            within each step), and the number of these: 1, the strands of each direction, or the shares; ``turning``,
            whether every second step goes through its blocks backwards.
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
        """What runs in parallel, and how many."""
        cell, cores = self._cell, self.target.cores
        found = [(_SERIAL, 1)]
        if cores > 1:
            pieces = {-(-cores // cell.directions), -(-2 * cores // cell.directions), 1}
            found += [(_STRANDS, n) for n in sorted(pieces) if n <= cell.batch and n * cell.directions > 1]
            # With a share for each core, its weights stay in the core's caches; with more, cores help each other.
            found += [(_SHARES, n) for n in sorted({cores, 4 * cores}) if n <= cell.blocks]
        return found

    def default(self) -> NDArray[np.int32]:
        """A tile that computes little twice and loads little; in parallel if there is enough work. ``(knobs,)``."""
        parallel = self._choose_arrangement()
        kind, count = self.knobs[2].choices[parallel]
        costs = [self._cost(tile, kind, count) for tile in self.knobs[0].choices]
        chosen = [int(np.argmin(costs)), min(2, len(self.knobs[1]) - 1), parallel, len(self.knobs[3]) - 1]
        return np.asarray(chosen, dtype=np.int32)

    def _choose_arrangement(self) -> int:
        """The choice of the knob ``parallel`` without any measurement."""
        cell, choices = self._cell, list(self.knobs[2].choices)
        strands = [place for place, (kind, _) in enumerate(choices) if kind == _STRANDS]
        if strands and cell.work >= _STRAND_WORK:
            return strands[0] if len(strands) == 1 else strands[-2]
        shares = (_SHARES, self.target.cores)
        return choices.index(shares) if shares in choices and cell.work // cell.steps >= _STEP_WORK else 0

    def _cost(self, tile: tuple[int, ...], kind: int, count: int) -> float:
        """An estimate of a tile's cycles for each product of vectors that is needed."""
        cell, (rows, vectors) = self._cell, tile
        strand = -(-cell.batch // count) if kind == _STRANDS else cell.batch
        shares = count if kind == _SHARES else 1
        groups = -(-cell.blocks // vectors)
        computed = -(-strand // rows) * rows * -(-groups // shares) * shares * vectors
        sums = rows * vectors * max(len(gates) for gates in cell.phases)
        # Weights are loaded once for all rows, and states once for all sums of a row. An addition waits 4 cycles for
        # the one before it. Large tiles overlap less with the activations of the tile before.
        cycles = max(1.0, 1.0 / rows + rows / sums, 4.0 / sums) + 0.02 * sums
        return cycles * computed / (strand * cell.blocks)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. It is written, not made by primitives of a schedule. So its trace is empty.

        Raises:
            SpaceError: the config is not of the space, or TVM cannot make the program.
        """
        import tvm
        from tvm import tirx
        from tvm.s_tir import SBlock, SBlockRealize, Schedule

        (rows, vectors), (unroll,), (kind, count), (turning,) = choices_of(self, config)
        strands, shares = kind == _STRANDS, count if kind == _SHARES else 0
        nest = Nest(count if strands else 1, rows, vectors, unroll, strands, shares, bool(turning))
        with space_errors(f"{self.task.name!r} cannot be scheduled step by step"):
            main = self._module["main"]
            body, buffers = write_steps(self._cell, list(main.params), nest)
            root = SBlock([], [], [], "root", body, None, buffers)
            main = main.with_body(SBlockRealize([], tirx.const(True, "bool"), root))
            return Schedule(tvm.ir.IRModule({"main": main}), seed=1)


class RecurrentTemplate:
    """Schedules the recurrent parts of LSTM, GRU and RNN."""

    name = "recurrent"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is that of a cell."""
        return task.kind == self.kind and _read_cell.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return RecurrentSpace(task, target)
