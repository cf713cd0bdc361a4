"""The design space of sums over the batch and all pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.pixel_sums.form import KIND, TILED, Form, read_form
from tilewright.ops.pixel_sums.program import OUTSIDE, Decisions, build_program
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, divisors
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tvm_compat import narrow_indices

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.s_tir import Schedule

__all__ = ["PixelSumsSpace", "PixelSumsTemplate"]

#: Most blocks of outputs in a register tile, and most columns that are written out.
_OUTS, _UNROLL = 4, 4
#: Most multiply-adds that are written out. More take LLVM long and leave the instruction cache.
_BODY = 256
#: Bytes that a core gets from beyond its second cache, and from that cache, in a cycle. (The first was measured: 10 on
#: an Emerald Rapids, in a virtual machine with two cores. They rank programs, so they need not be exact elsewhere.)
_FAR_BYTES, _NEAR_BYTES = 10.0, 40.0
#: The relative cost of a chunk of twice the size of which a cache holds all that is read again. (A choice.)
_LARGE_COST = 0.1
#: The same for the panel of a register tile. (1x1, 64 to 256 channels: a panel of 57 KB instead of 28 KB costs 3 %.)
_PANEL_COST = 0.02
#: The share of the second cache that holds an operand which is read again.
_HELD = 0.8
#: Multiply-adds of vectors in a cycle.
_ADDS = 2
#: Register tiles that are ranked together with chunks.
_RANKED = 4
#: The number of the choice of no loops around the chunks.
_NO_BLOCKS = OUTSIDE.index("")
#: The place of each knob.
_TILE, _CHUNKS, _PARTS, _OUTSIDE, _COLUMNS, _PAD, _AHEAD = slice(0, 4), 4, 5, 6, 7, 8, 9


def _analyse(task: Task) -> tuple[IRModule, Form]:
    """The task's function with narrow indices, and the form of the sum in it."""
    module = narrow_indices(task_module(task))
    with form_errors(f"{task.name!r} has not the form of a sum over pixels"):
        form = read_form(module)
        build_program(module, form, Decisions(dict.fromkeys(TILED, 1), 1, 1, 1, "c", 1, False))
    return module, form


_read_sums = FormReader(_analyse)


class PixelSumsSpace(KnobsAlone):
    """The programs of one sum over the batch and all pixels.

    Attributes:
        task: the task that is scheduled.
        target: the machine it is scheduled for.
        template: ``pixel_sums/4``; ``pixel_sums/5`` of sums over all inputs and outputs.
        knobs: ``tile_o``, ``tile_y``, ``tile_x``, ``tile_u``: blocks of outputs, rows and columns of the kernel, and
            inputs in a register tile; ``chunks`` of images, then also of their rows, that are summed one after the
            other; ``parts`` of the chunks that run in parallel; ``outside``: the blocks around the chunks; ``unroll``:
            columns that are written out; ``pad``: 1 pads each chunk just before its use; ``ahead``: whether the sums so
            far are fetched while a tile is summed, if these are the result. A knob that the task does not need has one
            choice.
        has_loop_nest: false.
    """

    template = "pixel_sums/4"

    def __init__(self, task: Task, target: Target) -> None:
        """Make the knobs.

        Args:
            task: the task to schedule.
            target: the machine to schedule it for.

        Raises:
            FormError: the function has not the form that the template knows.
            SpaceError: the function cannot be read.
        """
        self.task, self.target = task, target
        self._module, self._form = _read_sums(task)
        self._vectors = -(-self._form.extents["l"] // target.lanes)
        self.knobs: tuple[Knob, ...] = _knobs(self._form, target)
        if self._form.is_dense:
            self.template = "pixel_sums/5"

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs fit the registers, and cut chunks into parts of equal numbers. ``(n,)``."""
        values = self._values(configs)
        tile, sums = values[:, _TILE], self._sums(values)
        kept = tile[:, 0] if not self._form.depthwise else np.ones(len(values), dtype=np.int64)
        # The smallest tile is always allowed. A task with long lanes would otherwise have no program.
        ok: NDArray[np.bool_] = (sums + kept * self._vectors + 1 <= self.target.registers) | (tile.prod(axis=1) == 1)
        ok &= (sums * values[:, _COLUMNS] <= _BODY) | (values[:, _COLUMNS] == 1)
        ok &= values[:, _CHUNKS] % values[:, _PARTS] == 0
        if self._form.computed and not self._form.depthwise:  # each pixel is computed once
            ok &= np.isin(values[:, _OUTSIDE], (OUTSIDE.index("o"), _NO_BLOCKS))
        # Something runs in parallel.
        serial = (values[:, _PARTS] == 1) & (self._form.extents["g"] == 1)
        ok &= (values[:, _OUTSIDE] != _NO_BLOCKS) | ~serial
        return ok

    def default(self) -> NDArray[np.int32]:
        """The tile with the fewest estimated cycles; chunks that fit the second cache; enough parallel iterations."""
        config: NDArray[np.int32] = self.likely(1)[0]
        return config

    def likely(self, count: int) -> Configs:
        """The default, then other tiles and chunks with low estimated cost. ``(at most count, knobs)``."""
        tiles = self._combinations(np.zeros(len(self.knobs), dtype=np.int32), (0, 1, 2, 3))
        tiles = tiles[self.valid(tiles)]
        cycles = self._cycles(self._values(tiles))
        found, costs = [], []
        for place in cycles.argsort(kind="stable")[:_RANKED]:
            rest = self._combinations(tiles[place], (_CHUNKS, _PARTS, _OUTSIDE))
            rest = rest[self.valid(rest)]
            cost = self._cost(self._values(rest))
            # Of all configs with the same tile and the same chunks, only the best.
            order = cost.argsort(kind="stable")
            first = order[np.sort(np.unique(rest[order, _CHUNKS], return_index=True)[1])]
            found.append(rest[first])
            costs.append(cost[first] + cycles[place] / cycles.min())
        ranked = np.concatenate(costs)[1:].argsort(kind="stable")[: count - 1]
        best = np.concatenate([found[0][:1], np.concatenate(found)[1:][ranked]])
        return np.stack([self._finish(config) for config in best])

    def _finish(self, config: NDArray[np.int32]) -> NDArray[np.int32]:
        """The config with what is best for any tile."""
        config[_PAD] = len(self.knobs[_PAD]) - 1
        if self._form.alone:
            config[_AHEAD] = 1
        return config

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        choices = [choice[0] for choice in choices_of(self, config)]
        tile, (chunks, parts, outside, unroll, pad, *ahead) = choices[_TILE], choices[_CHUNKS:]
        images = min(chunks, self._form.batch)
        inside = pad == 1 and self._form.padded
        decisions = Decisions(
            dict(zip(TILED, tile, strict=True)),
            images,
            chunks // images,
            parts,
            OUTSIDE[outside],
            unroll,
            inside,
            any(ahead),
        )
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            return build_program(self._module, self._form, decisions)

    def _values(self, configs: Configs) -> NDArray[np.int64]:
        """``(n, knobs)`` the choices."""
        return np.stack([knob.table[configs[:, i], 0] for i, knob in enumerate(self.knobs)], axis=1)

    def _sums(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """``(n,)`` registers that hold sums."""
        sums: NDArray[np.int64] = values[:, _TILE].prod(axis=1) * self._form.extents["t"] * self._vectors
        return sums

    def _combinations(self, base: NDArray[np.int32], columns: tuple[int, ...]) -> Configs:
        """``base`` with every choice of the knobs ``columns``."""
        grid = np.indices([len(self.knobs[i]) for i in columns]).reshape(len(columns), -1).T
        rows = np.tile(base, (len(grid), 1))
        rows[:, columns] = grid
        return rows

    def _cycles(self, values: NDArray[np.int64]) -> NDArray[np.float64]:
        """``(n,)`` estimated cycles of all tiles for a pixel."""
        outs, *inputs = values[:, _TILE].T
        sums = self._sums(values)
        loads = outs * self._vectors + np.prod(inputs, axis=0) * (self._vectors if self._form.depthwise else 1)
        # A cycle has two multiply-adds and two loads. A sum is ready for the next addition after four cycles.
        busy = np.maximum(np.maximum(sums, loads) / 2, 4) + 0.05 * loads
        tiles: NDArray[np.float64] = busy / values[:, _TILE].prod(axis=1)
        return tiles

    def _cost(self, values: NDArray[np.int64]) -> NDArray[np.float64]:
        """``(n,)`` an estimate that ranks chunks, parts, and the blocks around the chunks."""
        form, target = self._form, self.target
        chunks, parts = values[:, _CHUNKS], values[:, _PARTS]
        tile = values[:, 0]
        names = [OUTSIDE[number] for number in values[:, _OUTSIDE]]
        blocks = {"c": np.full(len(values), form.extents["c"]), "o": form.extents["o"] // tile}
        around = np.asarray([np.prod([blocks[a][i] for a in name]) for i, name in enumerate(names)])
        parallel = parts * around * form.extents["g"]
        balance = parallel / (np.ceil(parallel / target.cores) * target.cores)
        chunk_bytes = form.row_bytes * form.batch * form.rows / chunks
        fits = np.log2(np.maximum(1.0, chunk_bytes / (target.l2 / 4)))
        small = np.log2(np.maximum(1.0, target.l1 / chunk_bytes))
        cost: NDArray[np.float64] = 4 * (1 - balance) + fits + 0.5 * small + 0.1 * np.log2(parts)
        # Padding is done again for each iteration of a loop around the chunks over blocks of outputs.
        again = np.asarray([blocks["o"][i] if "o" in name else 1 for i, name in enumerate(names)])
        cost += (0.1 if form.padded else 0.0) * np.log2(again) + 0.01 * values[:, _OUTSIDE]
        if form.is_dense:
            each = {a: np.asarray([blocks[a][i] if a in name else 1 for i, name in enumerate(names)]) for a in "co"}
            traffic = self._relative_traffic(values, each["c"], each["o"])
            dense: NDArray[np.float64] = 4 * (1 - balance) + traffic
            return dense
        return cost

    def _relative_traffic(
        self, values: NDArray[np.int64], left_blocks: NDArray[np.int64], right_blocks: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """``(n,)`` the time in which data come to the first caches, relative to that of a product's arithmetic.

        A chunk of the left matrix is read once if the second cache holds it, and otherwise for each tile of the right
        one. The left matrix is read for each of the ``right_blocks`` around the chunks, and the right one for each of
        the ``left_blocks``. Each chunk reads and writes the sums.
        """
        form, extents, target = self._form, self._form.extents, self.target
        tokens = form.batch * form.rows * form.cols
        left, right = (4.0 * extents[a] * extents[b] for a, b in ("cu", "ol"))
        chunks, parts = values[:, _CHUNKS], values[:, _PARTS]
        chunk = tokens / chunks * left / left_blocks
        held = chunk <= target.l2 / 2
        tiles = extents["o"] / values[:, 0]
        panel = 4.0 * tokens / chunks * values[:, 0] * extents["l"]
        kernel = extents["y"] * extents["x"]
        sums = left * right / 4.0 * kernel
        stays = sums / (left_blocks * right_blocks) <= target.l2 / 2
        moved = 2.0 * sums * chunks / np.where(stays, _NEAR_BYTES, _FAR_BYTES)
        moved += np.where(parts > 1, 2.0 * sums * parts, 0.0) / _FAR_BYTES
        # What the second cache holds as a whole is read once.
        right_blocks = np.where(tokens * left <= _HELD * target.l2, 1, right_blocks)
        left_blocks = np.where(tokens * right <= _HELD * target.l2, 1, left_blocks)
        moved += np.where(parts > 1, sums * parts, 0.0) / _FAR_BYTES  # results are written in another order
        # Each tile of the kernel and of inputs reads the panel again.
        again = tokens * right * extents["c"] * extents["u"] * kernel / values[:, 1:4].prod(axis=1)
        moved += np.where(panel > target.l2 / 2, again, 0.0) / _FAR_BYTES
        moved += tokens * left * np.where(held, right_blocks, tiles) / _FAR_BYTES
        moved += tokens * right * left_blocks / _FAR_BYTES
        adds = tokens * left * right / 16.0 * kernel / (_ADDS * target.lanes)
        relative: NDArray[np.float64] = moved / adds
        # The caches hold other data, too.
        relative += _LARGE_COST * np.log2(np.maximum(1.0, chunk / (target.l2 / 8)))
        return relative + _PANEL_COST * np.log2(np.maximum(1.0, panel / (target.l1 / 4)))


def _knobs(form: Form, target: Target) -> tuple[Knob, ...]:
    extents = form.extents
    most = {"o": _OUTS}
    tiles = [[d for d in divisors(extents[a]) if d <= most.get(a, target.registers)] for a in TILED]
    chunks = [*divisors(form.batch), *(form.batch * d for d in divisors(form.rows) if d > 1)]
    parts = {1}
    for wanted in (target.cores, 2 * target.cores, 4 * target.cores):
        parts.add(min((d for d in chunks if d > 1), key=lambda d: (abs(d - wanted), d), default=1))
    outside = [0] if extents["o"] == 1 or "o" not in form.roles else [1] if extents["c"] == 1 else [0, 1, 2, 3]
    if (form.is_dense or form.is_column_sum) and (len(parts) > 1 or extents["g"] > 1):
        outside = [*outside, _NO_BLOCKS]
    if form.computed and not form.depthwise:
        outside = [OUTSIDE.index("o"), _NO_BLOCKS]
    return (
        *(ChoiceKnob.of(f"tile_{axis}", choices) for axis, choices in zip(TILED, tiles, strict=True)),
        ChoiceKnob.of("chunks", chunks),
        ChoiceKnob.of("parts", sorted(parts)),
        ChoiceKnob.of("outside", outside),
        ChoiceKnob.of("unroll", [d for d in divisors(form.cols) if d <= _UNROLL]),
        ChoiceKnob.of("pad", [0, 1] if form.padded else [0]),
        *([ChoiceKnob.of("ahead", [0, 1])] if form.alone else []),
    )


class PixelSumsTemplate:
    """Schedules sums over the batch and all pixels."""

    name = "pixel_sums"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is a sum of the form."""
        return task.kind == self.kind and _read_sums.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return PixelSumsSpace(task, target)
