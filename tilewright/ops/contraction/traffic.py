"""Estimates what a product of row-major matrices reads from beyond the second cache, by the order of its loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.contraction.form import Form
from tilewright.ops.contraction.nest import Columns
from tilewright.target import Target

__all__ = ["is_pointwise", "is_product", "relative_traffic"]

#: Bytes that a core gets from beyond its second cache in a cycle. (Measured: 10 on an Emerald Rapids, in a virtual
#: machine with two cores. It ranks programs, so it need not be exact elsewhere.)
_BYTES_PER_CYCLE = 10.0
#: Multiply-adds of vectors in a cycle.
_ADDS_PER_CYCLE = 2
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
