"""The programs of contractions in closed form, for many configs at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.contraction.dot_products import PAIR, DotProduct
from tilewright.ops.contraction.form import AXES, Access, Form
from tilewright.space.loop_nest import Annotation, LoopNest
from tilewright.target import Target

__all__ = ["LOOPS", "OUTER_AXES", "Columns", "Ints", "loop_nest", "most_sums", "register_pressure", "unrolled_kernel"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

#: Loops of every program: batch, groups, four outer loops, four of the reduction, then the unrolled ones over inputs,
#: rows, columns and outputs, and the lanes.
LOOPS = 15
#: The number of the first outer loop, of the first loop of the reduction, and of the first of the register tile.
_OUTER, _SUMS, _TILE = 2, 6, 10
#: The axes of the outer loops o0, o1, h0, w0. Without an axis of rows, h0 is a loop over columns.
OUTER_AXES = ("o", "o", "h", "w")
#: The most inputs of a block that LLVM writes out by itself.
_SHORT = 8
_REDUCTION_AXES = ("rc", "kh", "kw", "ri")
_EXTRA = (
    "accumulators",
    "register_pressure",
    "vector_efficiency",
    "tail_efficiency",
    "fma_per_load",
    "log2_parallel",
    "balance",
    "log2_body",
    "weights_in_l1",
    "weights_in_l2",
    "data_in_l1",
    "data_in_l2",
    "pad_inside",
    "pad_parallel",
)


@dataclass(frozen=True)
class Columns:
    """The meaning of ``n`` configs, column by column.

    Attributes:
        outer: ``(n, 4)`` extents of o0, o1, h0, w0.
        order: ``(n, 4)`` the outer loop at each position, outermost first.
        outs, rows, cols: ``(n,)`` the register tile.
        reduction: ``(n, 4)`` the loop (rc, kh, kw or ri) at each position of the reduction.
        unroll, unroll_kernel, parallel, pad: ``(n,)`` the knobs of these names.
    """

    outer: Ints
    order: Ints
    outs: Ints
    rows: Ints
    cols: Ints
    reduction: Ints
    unroll: Ints
    unroll_kernel: Ints
    parallel: Ints
    pad: Ints


def register_pressure(form: Form, target: Target, columns: Columns) -> Ints:
    """``(n,)`` vector registers that the inner loop needs.

    They hold the accumulators, one pixel, and the weights, which LLVM keeps for all pixels. A tile of four weights and
    three pixels, which needs 17 registers of 16, ran at half the speed of one that needs 15.
    """
    vectors = -(-form.extents["l"] // target.lanes)
    pixels = columns.rows * columns.cols
    wanted: Ints = columns.outs * pixels * vectors + np.where(pixels > 1, columns.outs * vectors, 1) + 1
    if form.unpacks:  # two factors and a number for each block of outputs, and constants; 8 blocks of 1 row were slower
        wanted = columns.outs * (pixels + 3) * vectors + 4
    return wanted


def most_sums(form: Form, target: Target, columns: Columns, dot: DotProduct | None) -> Ints:
    """``(n,)`` the most sums of a register tile for which LLVM spills none, about.

    With 16 registers it spills from 13 sums on, which halves the speed (measured). With 32 it has room.

    If an instruction of its own adds products to sums, LLVM reorders the additions of a block of inputs that it writes
    out. On a Zen 3, tiles of 2 x 4 took 0.84 of the time of 2 x 6 (pairs, 256 to 1024 channels, 14x14 pixels; quads
    0.90), and 0.80 of the time of 2 x 5 (pairs, 256 to 256 channels). In a loop over pairs, each product needs a
    register: 3 x 4 took 1.2 of the time of 2 x 6. With quads it was the fastest.
    """
    vectors = -(-form.extents["l"] // target.lanes)
    most = np.full(len(columns.outs), 8 if form.depthwise else target.registers - 4, dtype=np.int64)
    if dot is None or not dot.adds or target.registers > 16:
        return most
    if form.extents["ri"] <= _SHORT:
        most = np.minimum(most, 8)
    if dot.together == PAIR:  # besides the sums, there are the weights, a pixel and a product
        most = np.minimum(most, target.registers - 2 - columns.outs * vectors)
    return most


def loop_nest(form: Form, target: Target, columns: Columns) -> LoopNest:
    """The programs of ``columns``."""
    count = len(columns.outs)
    extents, axis = _loops(form, columns)
    annotations = _annotations(columns, extents)
    # One row for each loop: a step from loop to loop is one operation on all configs. With few configs, the number of
    # operations takes the time.
    by_loop, lengths = np.ascontiguousarray(axis.T), np.ascontiguousarray(extents.T)
    spans, below = _spans(form, by_loop, lengths)
    iterations = _inwards(lengths)
    touched = np.empty((count, len(form.accesses), LOOPS), dtype=np.float32)
    strides = np.empty_like(touched)
    reuse = np.empty_like(touched)
    for place, access in enumerate(form.accesses):
        elements = _footprint(access, spans)
        touched[:, place] = (elements * np.float32(access.itemsize)).T
        reuse[:, place] = (iterations / elements).T
        steps = dict(access.steps)
        step = np.asarray([steps.get(name, 0) for name in AXES], dtype=np.float32)
        strides[:, place] = np.where(lengths > 1, step[by_loop] * below, np.float32(0.0)).T
    arithmetic = np.tile(np.asarray([1.0, 1.0, 0.0], dtype=np.float32), (count, 1))
    return LoopNest(
        axes=AXES,
        buffers=tuple(a.name for a in form.accesses),
        axis=axis,
        extents=extents,
        annotations=annotations,
        touched=touched,
        strides=strides,
        reuse=reuse,
        arithmetic=arithmetic,
        extra=_extra(form, target, columns, extents, touched),
        extra_names=_EXTRA,
        products=form.together,
        halves=form.halves,
    )


def _outer_axes(form: Form) -> list[int]:
    names = OUTER_AXES if form.rows else ("o", "o", "w", "w")
    return [AXES.index(name) for name in names]


def _spans(form: Form, axis: NDArray[np.int8], lengths: Floats) -> tuple[dict[str, Floats], Floats]:
    """How much of each axis the loops cover.

    Args:
        form: the contraction.
        axis: ``(loops, n)`` the axis of each loop.
        lengths: ``(loops, n)`` the extent of each loop.

    Returns:
        For each axis, ``(loops, n)`` its span over a loop and the loops inside it; and ``(loops, n)`` the span of each
        loop's own axis over the loops inside it.
    """
    numbers = [number for number, name in enumerate(AXES) if form.extents[name] > 1]
    own = axis[:, None] == np.asarray(numbers, dtype=np.int8)[:, None]
    covered = _inwards(np.where(own, lengths[:, None], np.float32(1.0)))
    # The last tile sticks out of the axis, but nothing is read or written there.
    extents = np.asarray([form.extents[AXES[number]] for number in numbers], dtype=np.float32)
    np.minimum(covered, extents[:, None], out=covered)
    below = np.ones_like(lengths)
    np.max(np.where(own[:-1], covered[1:], np.float32(1.0)), axis=1, initial=1.0, out=below[:-1])
    spans = dict.fromkeys(AXES, np.ones_like(lengths))
    spans.update((AXES[number], covered[:, place]) for place, number in enumerate(numbers))
    return spans, below


def _inwards(lengths: Floats) -> Floats:
    """The product of each loop's length and of those inside it, for ``(loops, ...)``."""
    product = lengths.copy()
    for loop in reversed(range(len(product) - 1)):
        product[loop] *= product[loop + 1]
    return product


def _loops(form: Form, columns: Columns) -> tuple[Floats, NDArray[np.int8]]:
    count = len(columns.outs)
    extents = np.empty((count, LOOPS), dtype=np.float32)
    axis = np.empty((count, LOOPS), dtype=np.int8)
    extents[:, 0], axis[:, 0] = form.extents["n"], AXES.index("n")
    extents[:, 1], axis[:, 1] = form.extents["g"], AXES.index("g")
    extents[:, _OUTER:_SUMS] = np.take_along_axis(columns.outer, columns.order, axis=1)
    axis[:, _OUTER:_SUMS] = np.asarray(_outer_axes(form), dtype=np.int8)[columns.order]
    sums = np.empty((count, 4), dtype=np.int64)
    sums[:] = [form.extents[name] for name in _REDUCTION_AXES]
    sums[:, 3] //= columns.unroll
    extents[:, _SUMS:_TILE] = np.take_along_axis(sums, columns.reduction, axis=1)
    axis[:, _SUMS:_TILE] = np.asarray([AXES.index(name) for name in _REDUCTION_AXES], dtype=np.int8)[columns.reduction]
    lanes = np.full(count, form.extents["l"], dtype=np.int64)
    inner = (columns.unroll, columns.rows, columns.cols, columns.outs, lanes)
    for loop, (extent, name) in enumerate(zip(inner, ("ri", "h", "w", "o", "l"), strict=True), start=_TILE):
        extents[:, loop], axis[:, loop] = extent, AXES.index(name)
    return extents, axis


def _annotations(columns: Columns, extents: Floats) -> NDArray[np.int8]:
    kinds = np.zeros(extents.shape, dtype=np.int8)
    kinds[:, :_SUMS] = np.where(_in_parallel(columns), Annotation.PARALLEL, Annotation.SERIAL)
    unrolled = (columns.reduction == _REDUCTION_AXES.index("kw")) & (columns.unroll_kernel >= 1)[:, None]
    unrolled |= (columns.reduction == _REDUCTION_AXES.index("kh")) & (columns.unroll_kernel == 2)[:, None]
    kinds[:, _SUMS:_TILE] = np.where(unrolled, Annotation.UNROLLED, Annotation.SERIAL)
    kinds[:, _TILE:-1] = Annotation.UNROLLED
    kinds[:, -1] = Annotation.VECTORIZED
    kinds[extents == 1] = Annotation.SERIAL  # there is no loop
    return kinds


def _in_parallel(columns: Columns) -> NDArray[np.bool_]:
    """``(n, 6)`` whether each loop over batch, groups and tiles is parallel. Batch and groups count as one loop."""
    depth = np.asarray([0, 0, 1, 2, 3, 4])
    inside: NDArray[np.bool_] = depth < columns.parallel[:, None]
    return inside


def unrolled_kernel(form: Form, columns: Columns) -> Ints:
    """``(n,)`` the number of kernel positions that are written out."""
    kh, kw = form.extents["kh"], form.extents["kw"]
    return np.asarray([1, kw, kh * kw], dtype=np.int64)[columns.unroll_kernel]


def _footprint(access: Access, spans: dict[str, Floats]) -> Floats:
    """Distinct elements touched while each axis covers its span."""
    total: Floats = np.ones_like(spans["n"])
    for dim in access.dims:
        if len(dim) == 1 and abs(dim[0][1]) == 1:
            total *= spans[dim[0][0]]
        elif dim:
            # A stride wider than the kernel leaves gaps. Then there are at most as many elements as iterations.
            reach = sum(abs(c) * (spans[axis] - 1) for axis, c in dim) + np.float32(1.0)
            iterations = spans[dim[0][0]]
            for axis, _ in dim[1:]:
                iterations = iterations * spans[axis]
            total *= np.minimum(reach, iterations)
    return total


def _extra(form: Form, target: Target, columns: Columns, extents: Floats, touched: Floats) -> Floats:
    lanes = form.extents["l"]
    vectors = -(-lanes // target.lanes)
    pixels = columns.rows * columns.cols
    accumulators = columns.outs * pixels * vectors
    tiles = columns.outer[:, 3] if form.rows else columns.outer[:, 2] * columns.outer[:, 3]
    loads = columns.outs * vectors + pixels * (columns.outs * vectors if form.depthwise else 1)
    kernel = unrolled_kernel(form, columns)
    parallel = np.where(_in_parallel(columns), extents[:, :_SUMS], 1).prod(axis=1)
    data, weights = touched[:, 0], touched[:, 1]
    table = (
        accumulators,
        register_pressure(form, target, columns) / target.registers,
        np.full(len(pixels), lanes / (vectors * target.lanes)),
        form.extents["w"] / (tiles * columns.cols),
        accumulators / loads,
        np.log2(parallel),
        parallel / (np.ceil(parallel / target.cores) * target.cores),
        np.log2(accumulators * columns.unroll * kernel),
        np.log2(weights[:, _SUMS] / target.l1),
        np.log2(weights[:, _OUTER + 2] / target.l2),
        np.log2(data[:, _SUMS] / target.l1),
        np.log2(data[:, _OUTER + 2] / target.l2),
        columns.pad == 1,
        columns.pad == 0,
    )
    return np.stack([np.asarray(c, dtype=np.float32) for c in table], axis=1)
