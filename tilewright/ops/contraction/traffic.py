"""Estimates what programs move: products of row-major matrices from beyond the second cache, and padded bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.contraction.form import Form
from tilewright.ops.contraction.nest import Columns
from tilewright.ops.contraction.program import PAD_INSIDE
from tilewright.space.loop_nest import LoopNest
from tilewright.target import Target

__all__ = ["is_pointwise", "is_product", "padding_cost", "relative_traffic", "shares_weights", "sharing_cost"]

#: Bytes that a core gets from beyond its second cache in a cycle. (Measured: 10 on an Emerald Rapids, in a virtual
#: machine with two cores. It ranks programs, so it need not be exact elsewhere.)
_BYTES_PER_CYCLE = 10.0
#: Multiply-adds of vectors in a cycle.
_ADDS_PER_CYCLE = 2
#: Bytes that a core pads in a cycle, and how many times as long padding takes for images larger than half of its second
#: cache.
_PADDED_PER_CYCLE, _FAR = 12.0, 3.0
#: Cycles of a separate parallel loop for padding, and of reading a byte that another core padded. (A 3x3 convolution
#: of 56x56 pixels and 64 channels took 189 µs with such a loop, and 154 µs where each core padded the whole image for
#: itself. One of 28x28 pixels and 128 channels took 172 and 153 µs. Two cores of an Emerald Rapids.)
_APART, _FROM_ANOTHER = 15_000.0, 0.45
#: Cycles of each byte of weights that a core reads only because cores share the pixels, and not the outputs. It comes
#: from the last cache.
_FROM_OUTER = 0.1
#: The share of the second cache that one operand may fill, so that it stays there while the other one streams by.
_SHARE = 0.5


def is_product(form: Form) -> bool:
    """Whether the contraction is a product of matrices, or a batch of them, whose rows are not blocked."""
    single = all(form.extents[axis] == 1 for axis in ("g", "h", "rc", "kh", "kw"))
    return single and not form.depthwise and "h" not in form.iterators


def is_pointwise(form: Form) -> bool:
    """Whether the contraction is a 1x1 convolution of blocked data whose pixels are one axis."""
    single = all(form.extents[axis] == 1 for axis in ("g", "h", "kh", "kw"))
    return single and form.fused and not form.depthwise and not form.padded and form.extents["rc"] > 1


def relative_traffic(form: Form, target: Target, c: Columns) -> NDArray[np.float64]:
    """The time in which each program's operands come from beyond the second cache, relative to that of its arithmetic.

    An operand that the second cache holds comes once, or once for each core. Another one comes again for each
    iteration of the loops that pass by all of it:

        o0, (o1,) h0, w0      the weights pass once, and all rows for each block of outputs
        h0, o0, w0            a chunk of rows passes once if the cache holds it, and all weights for each chunk
        h0, w0, o0            a tile of rows passes once, and all weights for each tile

    Args:
        form: of a product (:func:`is_product`), or of a 1x1 convolution (:func:`is_pointwise`), whose rows are pixels.
        target: the machine.
        c: the configs. Loops o1 only make the blocks of outputs longer.
    """
    depth = form.extents["rc"] * form.extents["ri"]
    rows, outs = form.extents["w"], form.extents["o"] * form.extents["l"]
    room = _SHARE * target.l2
    o0, _, chunks, tiles = c.outer.T.astype(np.float64)
    place = (c.order == 0).argmax(axis=1) - (c.order == 2).argmax(axis=1)
    outputs_first = place < 0
    # An operand that fits is read by each core; there are as many readers as parallel iterations pass by it.
    passes = np.where(outputs_first, o0, chunks)
    readers = np.where(c.parallel > 1, np.minimum(passes, target.cores), 1.0)
    data_bytes, weight_bytes = 4.0 * rows * depth, 4.0 * outs * depth
    last = (c.order == 0).argmax(axis=1) > (c.order == 3).argmax(axis=1)
    again = np.where(last, chunks * tiles, chunks)
    weight_times = np.where(outputs_first, 1.0, readers if weight_bytes <= room else again)
    chunk_fits = data_bytes / chunks <= room
    data_times = np.where(
        outputs_first,
        readers if data_bytes <= room else o0,
        np.where(last | chunk_fits, 1.0, o0),
    )
    cycles = (data_times * data_bytes + weight_times * weight_bytes) / _BYTES_PER_CYCLE
    busy = rows * depth * outs / (_ADDS_PER_CYCLE * target.lanes)
    relative: NDArray[np.float64] = cycles / busy
    return relative


def padding_cost(form: Form, target: Target, nest: LoopNest, c: Columns) -> NDArray[np.float64]:
    """The time in which each program pads its data, relative to that of its arithmetic.

    Each parallel iteration pads what it reads, or all data are padded before.

    Args:
        form: of a convolution of bytes.
        target: the machine.
        nest: of the configs.
        c: the configs.
    """
    image, busy = float(form.bytes("A")), _busy_cycles(form, target)
    if not form.padded:
        return np.zeros(len(c.pad))
    first = np.minimum(c.parallel + 1, nest.touched.shape[2] - 1)  # batch and groups are the first of two loops
    own = nest.touched[np.arange(len(first)), 0, first].astype(np.float64)
    iterations = 2.0 ** nest.extra[:, nest.extra_names.index("log2_parallel")]
    inside = own * iterations / _PADDED_PER_CYCLE * np.where(own > target.l2 / 2, _FAR, 1.0)
    before = image / _PADDED_PER_CYCLE + target.cores * (_APART + _FROM_ANOTHER * image)
    relative: NDArray[np.float64] = np.where(c.pad == PAD_INSIDE, inside, before) / busy
    return relative


def sharing_cost(form: Form, target: Target, c: Columns) -> NDArray[np.float64]:
    """The time in which each program reads what another core has written, relative to that of its arithmetic.

    Cores that share the outputs of a convolution read the whole image, of which others have written their part. Cores
    that share the pixels read all weights.

    Args:
        form: of a convolution of bytes.
        target: the machine.
        c: the configs.
    """
    outputs_first = (c.order == 0).argmax(axis=1) < (c.order == 2).argmax(axis=1)
    outputs_first &= c.outer[:, 0] > 1
    image, weights = _FROM_ANOTHER * form.bytes("A"), _FROM_OUTER * form.bytes("W")
    found = np.where(c.parallel > 0, np.where(outputs_first, image, weights), 0.0)
    relative: NDArray[np.float64] = (target.cores - 1) * found / _busy_cycles(form, target)
    return relative


def shares_weights(form: Form) -> bool:
    """Whether a convolution of bytes is faster if cores share its pixels, and all read its weights."""
    return _FROM_OUTER * form.bytes("W") < _FROM_ANOTHER * form.bytes("A")


def _busy_cycles(form: Form, target: Target) -> float:
    """Cycles of the arithmetic of a contraction on one core."""
    reduced = np.prod([form.extents[axis] for axis in ("rc", "kh", "kw", "ri")])
    return float(form.elements("C") * reduced / (_ADDS_PER_CYCLE * target.lanes))
