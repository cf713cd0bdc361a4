"""What a contraction's program fetches ahead (:mod:`tilewright.fetching_ahead`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.fetching_ahead import Steps

if TYPE_CHECKING:
    from tilewright.ops.contraction.form import Form
    from tilewright.ops.contraction.program import Decisions

__all__ = ["find_steps"]

#: Numbers of the outer loops o0, h0 and w0, and of the reduction's loop over the inputs of a block.
_O0, _H0, _W0 = 0, 2, 3
_INPUTS = 3


def find_steps(form: Form, decisions: Decisions) -> Steps | None:
    """The tiles of a program, and what it fetches; None: it fetches nothing.

    Args:
        form: of the contraction.
        decisions: of the config.
    """
    axes = [axis for axis in form.iterators if not (form.fused and axis == "h")]
    single = form.together == 1 and not (form.nibbles or form.halves or form.depthwise)
    if not single or not {"rc", "ri"} <= set(axes) or form.extents["l"] == 1:
        return None
    order = decisions.outer.index
    rows, cols = decisions.h[1] if form.rows else 1, decisions.w[-1]
    whole = -(-form.extents["w"] // cols)
    if form.rows:
        tiles, across, down = whole, whole, 0
        if order(_O0) < order(_H0):
            tiles, down = whole * decisions.h[0], whole
    else:
        tiles = across = whole if order(_O0) < order(_H0) else decisions.w[1]
        down = 0
    several = decisions.o[0] > 1 or ("n" in axes and not form.rows and form.extents["n"] > 1)
    weights = several and decisions.o[1] == 1 and order(_O0) < order(_W0) and tiles > 1
    blocks = decisions.reduction[-1] == _INPUTS
    inputs = form.extents["ri"] if blocks else decisions.unroll
    data = blocks and form.fused and not form.padded and form.extents["rc"] > 1
    if not (weights or data):
        return None
    place = {axis: number for number, axis in enumerate(axes)}.get
    return Steps(
        o=place("o", -1),
        w=place("w", -1),
        h=place("h", -1),
        rc=place("rc", -1),
        ri=place("ri", -1),
        lanes=place("l", -1),
        n=place("n", -1),
        outs=decisions.o[-1],
        cols=cols,
        rows=rows,
        inputs=inputs,
        tiles=tiles,
        across=across,
        down=down,
        high=decisions.h[0],
        weights=weights,
        data=data,
    )
