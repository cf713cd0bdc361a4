"""The knobs of contractions."""

from __future__ import annotations

from tilewright.ops.contraction.form import Form
from tilewright.ops.contraction.program import PAD_INSIDE, PAD_PARALLEL, PAD_SERIAL
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob, divisors
from tilewright.target import Target

__all__ = ["AHEAD", "ORDERS", "make_knobs"]

#: The place of the knob ``ahead``.
AHEAD = 9
#: Orders of the outer loops (o0, o1, h0, w0) by number.
ORDERS = ((0, 2, 1, 3), (2, 0, 3, 1), (2, 3, 0, 1), (0, 2, 3, 1))
#: Orders of (rc, kh, kw, ri) by number.
_RC_FIRST, _KERNEL_FIRST, _COLUMNS_LAST = (0, 1, 2, 3), (1, 2, 0, 3), (0, 1, 3, 2)
#: Most rows, and most blocks of outputs, of a register tile.
_ROWS, _OUTS = 4, 8
#: Most inputs of a block that are written out.
_UNROLL = 16


def make_knobs(form: Form, target: Target, fetches: bool) -> tuple[Knob, ...]:
    """The knobs of a contraction.

    Args:
        form: of the contraction.
        target: the machine.
        fetches: whether there is the knob ``ahead``.
    """
    extents = form.extents
    pixels = extents["w"]
    outs = target.registers // 2 if pixels * extents["h"] < 4 else _OUTS
    tile_o = [
        (extents["o"] // (o1 * o2), o1, o2)
        for o2 in divisors(extents["o"])
        if o2 <= outs
        for o1 in divisors(extents["o"] // o2)
        if o1 == 1 or o1 < extents["o"] // o2
    ]
    tile_h = [(extents["h"] // r, r) for r in divisors(extents["h"]) if r <= (_ROWS if form.rows else 1)]
    tile_w = []
    for cols in range(1, min(pixels, target.registers - 2) + 1):
        tiles = -(-pixels // cols)
        # A tile that sticks out gets code of its own. For that, the loop over tiles must not be split.
        outer = divisors(tiles) if not form.rows and pixels % cols == 0 else [1]
        tile_w += [(f, tiles // f, cols) for f in outer if f == 1 or f < tiles]
    reductions = [_RC_FIRST]
    if extents["kh"] * extents["kw"] > 1 and not form.depthwise and not form.nibbles:
        reductions += [_KERNEL_FIRST] if extents["rc"] > 1 else []
        reductions += [_COLUMNS_LAST] if extents["kw"] > 1 else []
    depths = ([0, 1] if extents["n"] * extents["g"] > 1 else [0]) + [2, 3, 4, 5]
    kernel = [0, 1] if extents["kw"] > 1 else [0]
    if form.depthwise and extents["kh"] > 1:
        kernel = [*kernel, 2]
    return (
        SplitKnob("tile_o", tuple(tile_o), extents["o"]),
        SplitKnob("tile_h", tuple(tile_h), extents["h"]),
        SplitKnob("tile_w", tuple(tile_w), pixels),
        ChoiceKnob.of("order", range(len(ORDERS))),
        OrderKnob.of("reduction", reductions),
        ChoiceKnob.of("unroll", [d for d in divisors(extents["ri"]) if d <= _UNROLL]),
        ChoiceKnob.of("unroll_kernel", kernel),
        ChoiceKnob.of("parallel", depths),
        ChoiceKnob.of("pad", _places(form)),
        *([ChoiceKnob.of("ahead", [0, 1])] if fetches else []),
    )


def _places(form: Form) -> list[int]:
    """Where data may be padded or widened. Rows and columns that are one axis are widened before the contraction."""
    if not form.padded:
        return [PAD_PARALLEL]
    return [PAD_PARALLEL, PAD_SERIAL] if form.fused else [PAD_PARALLEL, PAD_INSIDE, PAD_SERIAL]
