"""The design space of Winograd's algorithm in one function: some rows of tiles go from data to outputs in the cache.

parallel for n, stripes of tile rows, groups of output blocks:
    for channel blocks, tiles of the stripe:      V = 1-D transforms of the rows of the padded data, then of columns
    for smaller groups of output blocks:
        for a*a, tiles of outputs and pixels:     M[xi] = V[xi] U[xi], register-blocked, as in contractions
        for output blocks, tiles of the stripe:   transforms of M, then what consumes them

V and M are as large as one iteration needs. With several groups of outputs in the parallel loop, each group makes V
again. The groups inside keep M small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.fetching_ahead import STEPS, Steps
from tilewright.ops.winograd.expression import BACK, DATA, INVERSE, KIND, PAD, PRODUCTS, ROWS
from tilewright.ops.winograd.staged_space import keep_stages, straight
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, SplitKnob, divisors
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.ranked import RankedSpace
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tvm_compat import narrow_indices

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import LoopRV, SBlockRV

__all__ = ["FusedWinogradSpace", "FusedWinogradTemplate"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: The outer part of the parallel loop: stripes, or groups of outputs.
_STRIPES_FIRST, _GROUPS_FIRST = 0, 1
#: Iterators of the products.
_PLACES = {"n": 0, "o": 1, "h": 3, "w": 4, "lanes": 5, "rc": 6, "ri": 7}
#: Where the data are padded: for each row of tiles, or for each stripe.
_PAD_ROW, _PAD_STRIPE = 0, 1
#: Most multiply-adds that are written out in the innermost loop; most rows of tiles in a register tile; most input
#: channels that are written out.
_BODY, _TILE_ROWS, _UNROLL = 512, 4, 8
#: Factor for the time of a tile that sticks out: 56 columns as 9 x 6 + 2 ran at 0.85 of the speed of 14 x 4.
_TAIL = 1.2
#: Cycles: of a one-dimensional transform of one vector; of a register tile besides its sums; of a byte from the second
#: and from the last cache.
_TRANSFORM, _TILE, _L2_BYTE, _L3_BYTE = 8.0, 16.0, 1 / 32, 1 / 8


@dataclass(frozen=True)
class _Form:
    """The form of the function.

    Attributes:
        images, down, across: images, and rows and columns of tiles of an image.
        inputs, cb: blocks of input channels, and channels of a block.
        outputs, x: blocks of output channels, and channels of a block.
        a: rows of an input tile.
        padded: whether it pads the data.
    """

    images: int
    down: int
    across: int
    inputs: int
    cb: int
    outputs: int
    x: int
    a: int
    padded: bool


@dataclass(frozen=True)
class _Columns:
    """The meaning of ``n`` configs.

    Attributes:
        stripes, height, rows: ``(n,)`` stripes of an image, rows of tiles of a stripe, and of a register tile.
        cols: ``(n,)`` columns of a register tile.
        groups, inner, outs: ``(n,)`` groups of outputs in the parallel loop, groups inside, blocks of a register tile.
        order, unroll, pad: ``(n,)`` the knobs of these names.
    """

    stripes: Ints
    height: Ints
    rows: Ints
    cols: Ints
    groups: Ints
    inner: Ints
    outs: Ints
    order: Ints
    unroll: Ints
    pad: Ints


def _analyse(task: Task) -> tuple[IRModule, _Form]:
    """The task's function with narrow indices, and its form."""
    module = narrow_indices(task_module(task))
    with form_errors(f"{task.name!r} is no convolution by Winograd's algorithm"):
        form = _read(module)
        # If TVM can make this program, with the smallest tiles, it can make all of them.
        smallest = _Decisions((form.down, 1, 1), (form.across, 1), (form.outputs, 1, 1, 1), _STRIPES_FIRST, 1, _PAD_ROW)
        _program(module, form, smallest)
    return module, form


_read_fused = FormReader(_analyse)


class FusedWinogradSpace(RankedSpace):
    """The programs of one convolution by Winograd's algorithm.

    Attributes:
        task: the task that is scheduled.
        target: the machine it is scheduled for.
        template: ``winograd/2``.
        knobs: ``tile_h``: stripes, register tiles of a stripe, rows of a tile; ``tile_w``: register tiles of a row,
            columns of a tile, of which the last may stick out; ``tile_o``: parallel groups of output blocks, groups
            inside, register tiles of a group, blocks of a tile; ``order`` of the parallel loops; ``unroll`` of input
            channels; ``pad``.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is no such convolution.
        SpaceError: the function cannot be read.
    """

    template = "winograd/2"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._module, self._form = _, form = _read_fused(task)
        self.knobs: tuple[Knob, ...] = (
            SplitKnob.exact("tile_h", form.down, 3, [None, _TILE_ROWS]),
            SplitKnob.of("tile_w", form.across, [range(1, target.registers - 1)]),
            SplitKnob.exact("tile_o", form.outputs, 4, [None, None, target.registers // 2]),
            ChoiceKnob.of("order", [_STRIPES_FIRST, _GROUPS_FIRST]),
            ChoiceKnob.of("unroll", [d for d in divisors(form.cb) if d <= _UNROLL]),
            ChoiceKnob.of("pad", [_PAD_ROW, _PAD_STRIPE] if form.padded else [_PAD_ROW]),
        )

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs fit the registers, keep the code short, and are the one config of their program. ``(n,)``."""
        c = self._columns(configs)
        sums = self._sums(c)
        weights = np.where(c.rows * c.cols > 1, c.outs * self._vectors, 1)
        ok: NDArray[np.bool_] = (sums + weights + 1 <= self.target.registers) | (c.outs * c.rows * c.cols == 1)
        ok &= (sums * c.unroll <= _BODY) | (c.unroll == 1)
        # If one of two loops has one iteration, their order is no choice.
        ok &= (c.order == _STRIPES_FIRST) | ((c.groups > 1) & (self._form.images * c.stripes > 1))
        # A stripe of one row and one channel block is padded in the same way by both choices.
        ok &= (c.pad == _PAD_ROW) | (c.height * self._form.inputs > 1)
        return ok

    def _rank(self) -> Configs:
        """Configs by their estimated cycles, fewest first. No two have the same register tile and stripe."""
        configs = self._combine(range(4))
        configs[:, 4] = len(self.knobs[4]) - 1
        configs = configs[self.valid(configs)]
        c = self._columns(configs)
        ranked = self._cycles(c).argsort(kind="stable")
        shapes = np.stack([c.height, c.rows, c.cols, c.outs], axis=1)[ranked]
        _, first = np.unique(shapes, axis=0, return_index=True)
        return np.asarray(configs[ranked[np.sort(first)]], dtype=np.int32)

    @property
    def _vectors(self) -> int:
        return -(-self._form.x // self.target.lanes)

    def _sums(self, c: _Columns) -> Ints:
        """``(n,)`` vector registers that hold the sums of a register tile."""
        found: Ints = c.outs * c.rows * c.cols * self._vectors
        return found

    def _cycles(self, c: _Columns) -> Floats:
        """``(n,)`` estimated cycles of the core with the most to do."""
        form, target = self._form, self.target
        items = form.images * c.stripes * c.groups
        m, square = form.a - 2, form.a**2
        tiles = c.height * form.across
        outputs = form.outputs // c.groups
        vectors_in = -(-form.cb // target.lanes)
        forth = tiles * form.inputs * vectors_in * 2 * form.a * _TRANSFORM
        back = tiles * outputs * self._vectors * (form.a + m) * _TRANSFORM
        sums = self._sums(c)
        loads = c.outs * self._vectors + c.rows * c.cols
        # As for contractions: two multiply-adds and two loads a cycle; four cycles until a sum is ready; spills.
        step = np.maximum(np.maximum(sums, loads) / 2, 4) + 0.05 * (loads + 2 * c.outs * self._vectors)
        step = np.where(sums > target.registers - 4, 1.5, 1.0) * step
        tail = form.across % c.cols != 0
        depth = form.inputs * form.cb
        count = square * c.height * np.ceil(form.across / c.cols) * outputs / (c.rows * c.outs)
        products = np.where(tail, _TAIL, 1.0) * count * (step * depth + _TILE)
        # A core that stays with its groups of outputs for all stripes needs only the weights of these in its cache.
        kept = 4.0 * square * depth * form.x * np.where(c.order == _GROUPS_FIRST, outputs, form.outputs)
        weights = 4.0 * square * depth * form.x * outputs * np.where(kept > target.l2 / 2, _L3_BYTE, _L2_BYTE)
        between = 4.0 * square * tiles * (depth + form.x * outputs / c.inner)
        written = 4.0 * square * tiles * form.x * outputs
        moved = weights + 2 * written * np.where(between > target.l2 / 2, _L3_BYTE, _L2_BYTE)
        total: Floats = np.ceil(items / target.cores) * (forth + products + back + moved)
        return total

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        tile_h, tile_w, tile_o, (order,), (unroll,), (pad,) = choices_of(self, config)
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            return _program(self._module, self._form, _Decisions(tile_h, tile_w, tile_o, order, unroll, pad))

    def _columns(self, configs: Configs) -> _Columns:
        h, w, o, order, unroll, pad = (k.table.take(configs[:, i], axis=0) for i, k in enumerate(self.knobs))
        return _Columns(
            stripes=h[:, 0],
            height=h[:, 1] * h[:, 2],
            rows=h[:, 2],
            cols=w[:, 1],
            groups=o[:, 0],
            inner=o[:, 1],
            outs=o[:, 3],
            order=order[:, 0],
            unroll=unroll[:, 0],
            pad=pad[:, 0],
        )


def _read(module: IRModule) -> _Form:
    from tvm.s_tir import Schedule

    schedule = Schedule(module)
    names = [str(schedule.get(b).name_hint) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    needed = {ROWS, DATA, PRODUCTS, BACK, INVERSE}
    if not needed <= set(names):
        raise FormError(f"such a convolution has the blocks {sorted(needed)}, but the blocks here are {names}")

    def extents(name: str) -> list[int]:
        return [int(v.dom.extent) for v in schedule.get(schedule.get_sblock(name)).iter_vars]

    images, inputs, down, across, a, _, cb = extents(ROWS)
    _, outputs, *_, x, _, _ = extents(PRODUCTS)
    return _Form(images, down, across, inputs, cb, outputs, x, a, PAD in names)


@dataclass(frozen=True)
class _Decisions:
    """What a config decides: the choices of the knobs, in their order."""

    h: tuple[int, ...]
    w: tuple[int, ...]
    o: tuple[int, ...]
    order: int
    unroll: int
    pad: int


def _program(module: IRModule, form: _Form, decisions: _Decisions) -> Schedule:
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    writer = keep_stages(schedule, (PAD, ROWS, DATA, PRODUCTS, BACK, INVERSE))
    outer, group = _back(schedule, form, decisions, writer)
    depth = _products(schedule, form, decisions, group)
    _forth(schedule, form, decisions, outer[-1])
    schedule.parallel(schedule.fuse(*outer))
    schedule.decompose_reduction(schedule.get_sblock(PRODUCTS), depth)
    schedule.annotate(depth, STEPS, _find_steps(form, decisions))
    return schedule


def _find_steps(form: _Form, decisions: _Decisions) -> list[int]:
    """The register tiles of the products, whose weights are fetched ahead."""
    (_, high, rows), (across, cols) = decisions.h, decisions.w
    return Steps(
        **_PLACES,
        outs=decisions.o[3],
        cols=cols,
        rows=rows,
        inputs=form.cb,
        tiles=high * across,
        high=high,
        **dict.fromkeys(("across", "down"), across),
        group=decisions.o[2] * decisions.o[3] if decisions.o[0] * decisions.o[1] > 1 else 0,
    ).encode()


def _back(schedule: Schedule, form: _Form, decisions: _Decisions, writer: SBlockRV) -> tuple[list[LoopRV], LoopRV]:
    """Schedule the inverse transform and its consumers. Returns the parallel loops, and the loop over groups inside."""
    block, rows = schedule.get_sblock(INVERSE), schedule.get_sblock(BACK)
    n, o, i, j, v = schedule.get_loops(block)
    i, u = schedule.split(i, factors=[form.down, None])
    j, s = schedule.split(j, factors=[form.across, None])
    stripe, i = schedule.split(i, factors=[decisions.h[0], None])
    groups, group, o = schedule.split(o, factors=[*decisions.o[:2], None])
    outer = [groups, n, stripe] if decisions.order == _GROUPS_FIRST else [n, stripe, groups]
    schedule.reorder(*outer, group, o, i, j, u, s, v)
    schedule.compute_at(rows, j, preserve_unit_loops=True)
    schedule.reverse_compute_at(writer, j, preserve_unit_loops=True)
    for local in (rows, block):
        schedule.set_scope(local, 0, "local")
    straight(schedule, rows, swap=True)
    straight(schedule, writer, swap=False)
    for loop in (u, s):
        schedule.unroll(loop)
    schedule.vectorize(v)
    return outer, group


def _products(schedule: Schedule, form: _Form, decisions: _Decisions, group: LoopRV) -> LoopRV:
    """Schedule the products of a group of outputs, by register tiles. Returns the outermost loop of the sums."""
    products = schedule.get_sblock(PRODUCTS)
    stored = schedule.cache_write(products, 0, "local")
    schedule.compute_at(stored, group, preserve_unit_loops=True)
    schedule.compute_at(products, group, preserve_unit_loops=True)
    xi, o, n, i, j, v, blocks, channels = schedule.get_loops(products)[-8:]
    o, outs = schedule.split(o, factors=[None, decisions.o[3]])
    i, rows = schedule.split(i, factors=[None, decisions.h[2]])
    j, cols = schedule.split(j, factors=[None, decisions.w[1]])
    channels, unrolled = schedule.split(channels, factors=[None, decisions.unroll])
    schedule.reorder(xi, o, n, i, j, blocks, channels, unrolled, rows, cols, outs, v)
    schedule.reverse_compute_at(stored, j, preserve_unit_loops=True)
    if form.across % decisions.w[1]:
        # The tiles that stick out get their own copy of the program, in which all extents are constants.
        schedule.annotate(j, "pragma_loop_partition_hint", 1)
    for loop in (unrolled, rows, cols, outs):
        schedule.unroll(loop)
    schedule.vectorize(v)
    *_, _, outs, _, rows, cols, v = schedule.get_loops(stored)
    for loop in (outs, rows, cols):
        schedule.unroll(loop)
    schedule.vectorize(v)
    return blocks


def _forth(schedule: Schedule, form: _Form, decisions: _Decisions, outer: LoopRV) -> None:
    """Schedule the transform of a stripe's data."""
    from tvm.tirx import IndexMap

    block, rows = schedule.get_sblock(DATA), schedule.get_sblock(ROWS)

    def by_tiles(xi: Expr, c: Expr, n: Expr, i: Expr, j: Expr, v: Expr) -> tuple[Expr, ...]:
        return n, c, i, j, xi // form.a, xi % form.a, v

    dtype = str(schedule.get(block).iter_vars[0].var.ty.dtype)
    schedule.transform_block_layout(block, IndexMap.from_func(by_tiles, ndim=6, index_dtype=dtype))
    schedule.compute_at(block, outer, preserve_unit_loops=True)
    i, j, u, s, v = schedule.get_loops(block)[-5:]
    schedule.compute_at(rows, j, preserve_unit_loops=True)
    schedule.set_scope(rows, 0, "local")
    if form.padded:
        pad = schedule.get_sblock(PAD)
        schedule.compute_at(pad, i if decisions.pad == _PAD_ROW else outer, preserve_unit_loops=True)
        schedule.vectorize(schedule.get_loops(pad)[-1])
    straight(schedule, rows, swap=True)
    for loop in (u, s):
        schedule.unroll(loop)
    schedule.vectorize(v)


class FusedWinogradTemplate:
    """Schedules whole convolutions by Winograd's algorithm, and what is fused into them."""

    name = "winograd"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is a whole convolution by Winograd's algorithm."""
        return task.kind == self.kind and _read_fused.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return FusedWinogradSpace(task, target)
