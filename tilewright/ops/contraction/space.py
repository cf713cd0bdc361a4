"""The design space of contractions: register-blocked loops over blocked data and packed weights."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.contraction.dot_products import DotProduct, find_bf16_product, find_dot_product
from tilewright.ops.contraction.form import KIND, Form, read_form
from tilewright.ops.contraction.knobs import AHEAD, ORDERS, make_knobs
from tilewright.ops.contraction.nest import Columns, Ints, loop_nest, most_sums, register_pressure, unrolled_kernel
from tilewright.ops.contraction.nibbles import WORD
from tilewright.ops.contraction.program import PAD_INSIDE, PAD_SERIAL, Decisions, build_program, prepare
from tilewright.ops.contraction.traffic import (
    is_pointwise,
    is_product,
    padding_cost,
    relative_traffic,
    shares_weights,
    sharing_cost,
)
from tilewright.space.configs import choices_of
from tilewright.space.knob import Knob
from tilewright.space.loop_nest import LoopNest
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.space import PLAIN_CODE, Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tvm_compat import narrow_indices

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.s_tir import Schedule

__all__ = ["ContractionSpace", "ContractionTemplate"]

#: Most multiply-adds that are written out in the innermost loop. More take LLVM long and leave the instruction cache.
_BODY = 512
#: Multiply-adds that the default writes out, about. With 112 kernels took LLVM a tenth longer, and were not faster
#: (MobileNetV3-large, 2 cores of an Intel Emerald Rapids).
_WRITTEN_OUT = 32
#: The numbers of ``ORDERS``. With o1 = 1 the first three make different programs, otherwise all but the third
#: (``ContractionSpace._one_program_one_config``).
_O_H_O_W, _H_O_W_O, _H_W_O, _O_H_W_O = 0, 1, 2, 3
#: Register tiles of a product that are ranked together with their outer loops.
_RANKED = 12
#: Multiply-adds (about 10 µs) below which waking other threads costs more than it saves.
_PARALLEL_WORK = 1 << 18


def _analyse(task: Task) -> tuple[IRModule, Form, bool]:
    """The task's function with narrow indices, the form of its contraction, and whether its tiles write the result."""
    module = narrow_indices(task_module(task))
    with form_errors(f"{task.name!r} has not the form of a contraction"):
        form = read_form(module)
        joins = prepare(module, form)[-1]
    return module, form, joins


_read_contraction = FormReader(_analyse)


class ContractionSpace:
    """The programs of one contraction.

    Attributes:
        task: the task that is scheduled.
        target: the machine it is scheduled for.
        template: ``contraction/4`` (1 compiled tiles that stick out with a test in their inner loop); ``contraction/5``
            of products of matrices, which has the knob ``ahead``.
        knobs: ``tile_o``, ``tile_h``, ``tile_w``, ``order``, ``reduction``, ``unroll``, ``unroll_kernel``,
            ``parallel``, ``pad``, ``ahead``: whether lines that a tile writes are fetched while it is summed. A knob
            that the task does not need has one choice.
        has_loop_nest: true.
    """

    template = "contraction/4"
    has_loop_nest = True

    def __init__(self, task: Task, target: Target) -> None:
        """Make the knobs.

        Args:
            task: the task to schedule.
            target: the machine to schedule it for.

        Raises:
            FormError: the function is no contraction of the form that the template knows.
            SpaceError: the function cannot be read.
        """
        self.task, self.target = task, target
        self._module, self._form, self._joins = _read_contraction(task)
        self.knobs: tuple[Knob, ...] = make_knobs(self._form, target, self._fetches)
        if self._fetches:
            self.template = "contraction/5"

    @property
    def instruction(self) -> str:
        """The instruction that multiplies quads or pairs, or ``PLAIN_CODE``; empty: there are none of either."""
        none = "" if self._form.together == 1 else PLAIN_CODE
        return none if self._dot is None else self._dot.name

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs fit the registers, keep the code short, and are the one config of their program. ``(n,)``."""
        c = self._columns(configs)
        form = self._form
        vectors = -(-form.extents["l"] // self.target.lanes)
        kernel = unrolled_kernel(form, c)
        body = c.outs * c.rows * c.cols * vectors * c.unroll * kernel
        ok: NDArray[np.bool_] = np.asarray(register_pressure(form, self.target, c) <= self.target.registers)
        # The smallest tile is always allowed. A task with long lanes would otherwise have no program.
        ok |= c.outs * c.rows * c.cols == 1
        ok &= (body <= _BODY) | (c.unroll * kernel == 1)
        ok &= self._one_program_one_config(configs, c)
        ok &= self._parallel_fits(configs, c)
        if self._fetches:  # a tile of one vector is written at once
            ok &= (configs[:, AHEAD] == 0) | (c.outs * c.cols > 1)
        return ok

    def _one_program_one_config(self, configs: Configs, c: Columns) -> NDArray[np.bool_]:
        """Drop orders that differ only in the place of a loop of one iteration."""
        order = configs[:, 3]
        o0, o1, h0, w0 = (c.outer[:, i] > 1 for i in range(4))
        one_level = (order == _O_H_O_W) | (o0 & (((order == _H_O_W_O) & h0) | ((order == _H_W_O) & w0)))
        two_levels = ((order == _O_H_O_W) & h0) | ((order == _H_O_W_O) & h0 & w0) | ((order == _O_H_W_O) & w0)
        rest = self._form.extents["ri"] // c.unroll > 1
        columns_last = c.reduction[:, 3] == 2
        allowed: NDArray[np.bool_] = np.where(o1, two_levels, one_level) & (~columns_last | rest)
        return allowed

    def _parallel_fits(self, configs: Configs, c: Columns) -> NDArray[np.bool_]:
        """Whether the last parallel loop has iterations, and the tile that sticks out is not among them."""
        extents = np.take_along_axis(c.outer, c.order, axis=1)
        last = np.take_along_axis(extents, np.maximum(c.parallel - 2, 0)[:, None], axis=1)[:, 0]
        some = np.where(c.parallel <= 1, True, last > 1)
        position = (c.order == 3).argmax(axis=1) + 1
        tail = self._form.extents["w"] % c.cols != 0
        ok: NDArray[np.bool_] = some & (~tail | (position >= c.parallel)) & ((c.pad != PAD_INSIDE) | (c.parallel > 0))
        if not self._form.rows:  # two levels of pixels side by side in the parallel loop are the same as one
            place = np.arange(4)
            h0, w0 = ((c.order == i).argmax(axis=1) for i in (2, 3))
            between = np.where((place > h0[:, None]) & (place < w0[:, None]), extents, 1).prod(axis=1)
            ok &= (c.outer[:, 2] == 1) | (c.outer[:, 3] == 1) | (between > 1) | (w0 + 2 > c.parallel)
        # In a serial program, padding is serial anyway.
        ok &= (c.pad != PAD_SERIAL) | (c.parallel > 0)
        return ok

    def loop_nest(self, configs: Configs) -> LoopNest:
        """The programs in closed form."""
        return loop_nest(self._form, self.target, self._columns(configs))

    def default(self) -> NDArray[np.int32]:
        """The tile with the fewest estimated cycles, with enough parallel iterations for all cores. ``(knobs,)``."""
        return self._default.copy()

    def likely(self, count: int) -> Configs:
        """The default, then the register tiles with the next fewest estimated cycles. ``(at most count, knobs)``."""
        return np.stack([self._default, *(self._with_outer(tile) for tile in self._tiles[1:count])])

    @cached_property
    def _default(self) -> NDArray[np.int32]:
        return self._with_outer(self._tiles[0])

    @cached_property
    def _tiles(self) -> Configs:
        """Register tiles without a second level of output blocks, the one with the fewest estimated cycles first."""
        tiles = self._combinations(np.zeros(len(self.knobs), dtype=np.int32), (0, 1, 2))
        tiles = tiles[(self._columns(tiles).outer[:, 1] == 1) & self.valid(tiles)]
        cycles = self._cycles(self._columns(tiles))
        order = cycles.argsort(kind="stable")
        if not (self._is_product or self._is_pointwise):
            return np.asarray(tiles[order], dtype=np.int32)
        # Only rows that a tile divides can be cut into parallel chunks. So tiles are ranked with their outer loops.
        order = order[self._columns(tiles[order]).outer[:, 2] == 1]
        best, cycles = tiles[order[:_RANKED]], cycles[order[:_RANKED]]
        whole = np.stack([self._with_outer(tile) for tile in best])
        costs = cycles / cycles[0] + self._outer_cost(whole)
        return np.concatenate([best[costs.argsort(kind="stable")], tiles[order[_RANKED:]]])

    def _with_outer(self, tile: NDArray[np.int32]) -> NDArray[np.int32]:
        """``tile`` with the outer loops of the lowest estimated cost."""
        # A depthwise kernel has few sums, and all are written out if that is allowed. A packed operand belongs to one
        # matrix of the batch, so it may be packed just before its use.
        free = (3, 5, 7, 8) if self._packs else (3, 5, 7)
        if self._convolves_bytes and self._form.rows:
            free = (3, 5, 7, 8)
        if self._form.depthwise:
            free = (3, 6, 7, 8) if self._streams else (3, 6, 7)
        rows = self._combinations(tile, free)
        # A parallel loop over single tiles is slow: 1.16 times as long in bytes (256 to 64 channels, 56x56 pixels).
        if self._is_product or self._is_pointwise or (self._convolves_bytes and not self._form.rows):
            sizes = self.knobs[2].table[:, -1]
            levels = np.flatnonzero(sizes == sizes[tile[2]])
            rows = np.repeat(rows, len(levels), axis=0)
            rows[:, 2] = np.tile(levels, len(rows) // len(levels))
        rows = rows[self.valid(rows)]
        best: NDArray[np.int32] = rows[int(self._outer_cost(rows).argmin())]
        if self._fetches and not self._small:
            # With prefetching, products of ViT-tiny's training step took 0.82 to 0.98 of their time, each timed alone.
            fetching = best.copy()
            fetching[AHEAD] = 1
            best = fetching if self.valid(fetching[None])[0] else best
        return best

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        tile_o, tile_h, tile_w, order, reduction, unroll, kernel, parallel, pad, *more = choices_of(self, config)
        decisions = Decisions(
            tile_o,
            tile_h,
            tile_w,
            ORDERS[order[0]],
            reduction,
            unroll[0],
            kernel[0],
            parallel[0],
            pad[0],
            ahead=any(choice[0] for choice in more),
        )
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            return build_program(self._module, self._form, decisions, self._dot)

    def _columns(self, configs: Configs) -> Columns:
        values = [knob.table.take(configs[:, i], axis=0) for i, knob in enumerate(self.knobs)]
        o, h, w = values[:3]
        rows_loop = h[:, 0] if self._form.rows else w[:, 0]
        return Columns(
            outer=np.stack([o[:, 0], o[:, 1], rows_loop, w[:, 1]], axis=1),
            order=np.asarray(ORDERS, dtype=np.int64)[values[3][:, 0]],
            outs=o[:, 2],
            rows=h[:, 1],
            cols=w[:, 2],
            reduction=values[4],
            unroll=values[5][:, 0],
            unroll_kernel=values[6][:, 0],
            parallel=values[7][:, 0],
            pad=values[8][:, 0],
        )

    def _combinations(self, base: NDArray[np.int32], columns: tuple[int, ...]) -> Configs:
        """``base`` with every choice of the knobs ``columns``."""
        grid = np.indices([len(self.knobs[i]) for i in columns]).reshape(len(columns), -1).T
        rows = np.tile(base, (len(grid), 1))
        rows[:, columns] = grid
        return rows

    def _cycles(self, c: Columns) -> NDArray[np.float64]:
        """Estimated cycles of all register tiles, per step of the reduction."""
        vectors = -(-self._form.extents["l"] // self.target.lanes)
        tails = self._form.extents["w"] % c.cols
        whole = self._form.extents["w"] // c.cols
        rows = self._form.extents["h"] // c.rows
        outs = self._form.extents["o"] // c.outs
        # A sum is ready for the next addition after four cycles. Two additions start in a cycle, so with 8 sums a late
        # operand costs time. With 12, three of four products of 3152 rows ran 1.14 to 1.34 times as fast (Zen 3).
        waits = 5 if self.target.registers <= 16 and (self._is_product or self._is_pointwise) else 4

        def cycles(cols: Ints) -> NDArray[np.float64]:
            # A cycle has two multiply-adds and two loads.
            loads = c.outs * vectors + c.rows * cols * (c.outs * vectors if self._form.depthwise else 1)
            sums = c.outs * c.rows * cols * vectors
            # Weights come from a farther cache than data.
            busy = np.maximum(np.maximum(sums, loads) / 2, waits) + 0.05 * (loads + 2 * c.outs * vectors)
            # Depthwise kernels with more than 8 sums ran at a third of the speed: each sum loads data of its own.
            factor = 3.0 if self._form.depthwise else 1.5
            spilled = np.where(sums > most_sums(self._form, self.target, c, self._dot), factor, 1.0) * busy
            total: NDArray[np.float64] = np.where(cols > 0, spilled, 0.0)
            return total

        # A tile that sticks out costs time: 14 columns as 7 x 2 ran 1.6 times as fast as 5 + 5 + 4.
        row = whole * cycles(c.cols) + cycles(tails) + 3 * (tails > 0)
        estimate: NDArray[np.float64] = np.asarray(row * rows * outs, dtype=np.float64)
        # If all else is equal, the pixels are not split into two levels.
        return estimate + (0.0 if self._form.rows else 1e-3) * (c.outer[:, 2] - 1)

    def _outer_cost(self, configs: Configs) -> NDArray[np.float64]:
        c = self._columns(configs)
        nest = self.loop_nest(configs)
        iterations = 2.0 ** nest.extra[:, nest.extra_names.index("log2_parallel")]
        balance = nest.extra[:, nest.extra_names.index("balance")]
        small = self._small
        cores = self.target.cores
        cost = np.where(c.parallel > 0, 1.0, 0.0) if small else 4.0 * (1 - np.where(c.parallel > 0, balance, 1 / cores))
        few = 0.03 if self._convolves_bytes else 0.3
        cost = cost + few * np.log2(np.maximum(1.0, 4 * cores / iterations)) * (not small) + 0.001 * np.log2(iterations)
        if self._convolves_bytes and not small:
            cost = cost + padding_cost(self._form, self.target, nest, c) + sharing_cost(self._form, self.target, c)
        if self._is_product or self._is_pointwise:
            cost = cost + relative_traffic(self._form, self.target, c)
        # Weights stay in the cache while all pixels pass. If only the weights fit the cache, rows pass first.
        rows_first = self._form.bytes("W") <= self.target.l2 / 2 < self._form.bytes("A") and not self._streams
        wanted = _H_O_W_O if rows_first and self._form.rows else _O_H_O_W
        if self._convolves_bytes and shares_weights(self._form):
            wanted = _H_O_W_O
        steps = dict(self._form.accesses[0].steps)
        if 0 < steps.get("o", 0) < steps.get("w", 0):  # channels last: all channels of a pixel that is in the cache
            wanted = _H_W_O
        if self._packs:
            # The operand is packed again for each parallel iteration, or once in a parallel loop of its own.
            again = np.maximum(iterations / max(self._form.extents["n"], 1), 1)
            once = 0.1 if small else 0.3
            if self._form.nibbles:  # an iteration unpacks the outputs that it computes: only chunks of rows repeat it
                inside = np.arange(4) < c.parallel[:, None] - 1
                again = np.where(inside & (c.order >= 2), np.take_along_axis(c.outer, c.order, 1), 1).prod(axis=1)
            cost = cost + np.where(c.pad == PAD_INSIDE, 0.2 * (again - 1), once)
        if self._is_product and self._form.bytes("A") / self._form.extents["n"] > self.target.l2 / 2 and not small:
            wanted = _H_O_W_O  # chunks of rows in the second cache, beside a panel of weights in the first
        # The traffic of a 1x1 convolution decides on the order of its loops. Otherwise the usual one is taken.
        other_order = 0.005 if self._is_pointwise else 0.05
        unrolled = np.abs(np.log2(c.unroll / self._wanted_unroll(c)))
        total: NDArray[np.float64] = cost + other_order * (configs[:, 3] != wanted) + 0.02 * unrolled
        if self._streams:
            # Padded data in a cache are written and read at no cost. Each parallel iteration pads its own blocks.
            blocks = self._form.extents["n"] * self._form.extents["o"]
            total = total + 0.2 * (c.pad != PAD_INSIDE) + 0.02 * np.abs(c.unroll_kernel - 1)
            total = total + 0.1 * (self._form.bytes("A") / iterations > self.target.l2) + 0.1 * (iterations > blocks)
            return total
        total = total - 0.02 * c.unroll_kernel * self._form.depthwise
        return total

    def _wanted_unroll(self, c: Columns) -> NDArray[np.float64]:
        """How much of the sum is written out: enough multiply-adds for a loop, and no more code to compile."""
        if self._dot is not None and self._dot.adds:
            # LLVM reorders additions of steps that are written out, and spills: 4 took up to 1.2 of the time of 2.
            return np.full(len(c.outs), 2.0)
        if self._is_product:  # ViT-tiny's took 1.04 of the time with fewer
            return np.full(len(c.outs), 4.0)
        if self._form.unpacks:  # a whole word, so that it is loaded once and its levels lie at known bits
            return np.full(len(c.outs), float(WORD))
        vectors = -(-self._form.extents["l"] // self.target.lanes)
        found: NDArray[np.float64] = np.clip(_WRITTEN_OUT / (c.outs * c.rows * c.cols * vectors), 1, 4)
        return found

    @cached_property
    def _dot(self) -> DotProduct | None:
        """The instruction that multiplies quads or pairs. Depthwise kernels have a template that uses it."""
        form, lanes = self._form, self._form.extents["l"]
        if form.depthwise:
            return None
        if form.halves:
            return find_bf16_product(self.target, lanes)
        return find_dot_product(self.target, lanes, form.together, form.operands)

    @cached_property
    def _is_product(self) -> bool:
        return is_product(self._form)

    @cached_property
    def _is_pointwise(self) -> bool:
        return self._form.together == 1 and is_pointwise(self._form)

    @property
    def _streams(self) -> bool:
        """Whether the kernel is depthwise, and its padded data are too large for a cache."""
        return self._form.depthwise and self._form.padded and self._form.bytes("A") > self.target.l2

    @property
    def _convolves_bytes(self) -> bool:
        form = self._form
        return form.together > 1 and not (form.halves or form.depthwise or self._is_product)

    @property
    def _packs(self) -> bool:
        return self._form.padded and "n" in self._form.iterators and "h" not in self._form.iterators

    @property
    def _fetches(self) -> bool:
        """Whether the lines of a tile may be prefetched: those of a product of matrices of float32 numbers."""
        return self._is_product and self._joins and self._dot is None and self._form.extents["l"] > 1

    @property
    def _small(self) -> bool:
        """Whether waking other threads costs more than it saves."""
        return self._form.elements("C") * self._reduced() < _PARALLEL_WORK

    def _reduced(self) -> int:
        return int(np.prod([self._form.extents[a] for a in ("rc", "kh", "kw", "ri")]))


class ContractionTemplate:
    """Schedules contractions, and what is fused into them."""

    name = "contraction"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is a contraction of the form."""
        return task.kind == self.kind and _read_contraction.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return ContractionSpace(task, target)
