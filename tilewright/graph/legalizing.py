"""Operators of Relax that become expressions of ours, where those of TVM compute something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tilewright.ops.window import Windows, max_pool

if TYPE_CHECKING:
    from tvm import relax

__all__ = ["LEGALIZED"]


def _max_pool(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """max_pool2d(x) --> a call of :func:`tilewright.ops.window.max_pool`; likewise in 1 and 3 dimensions."""
    attrs, layout = call.attrs, str(call.attrs.layout)
    if str(attrs.out_layout) != layout:
        return call  # no layout of ours
    axes = [place for place, letter in enumerate(_letters(layout)) if letter in "DHW"]
    extents = [int(extent) for extent in call.ty.shape.values]
    windows = Windows(
        tuple(axes),
        tuple(int(v) for v in attrs.pool_size),
        tuple(int(v) for v in attrs.strides),
        tuple(int(v) for v in attrs.dilation),
        tuple(int(v) for v in attrs.padding)[: len(axes)],
        tuple(extents[axis] for axis in axes),
    )
    name = call.op.name.rpartition(".")[2]
    return builder.call_te(lambda x: max_pool(x, windows), call.args[0], primfunc_name_hint=name)


def _letters(layout: str) -> str:
    """The axes of a layout, a letter each: ``NCHWc`` for ``NCHW16c``."""
    return "".join(letter for letter in layout if letter.isalpha())


#: What :class:`relax.transform.LegalizeOps` is given: a function for each operator, by its name.
LEGALIZED: dict[str, Callable[[relax.BlockBuilder, relax.Call], relax.Expr]] = {
    f"relax.nn.max_pool{rank}d": _max_pool for rank in (1, 2, 3)
}
