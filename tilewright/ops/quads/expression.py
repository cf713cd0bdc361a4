"""The tensor expression that packs planes of bytes into quads: ``y[n, 0, h, w, c] = x[n, c, h, w]``."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import INJECTIVE, KEPT, make_function
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = ["BLOCK", "KIND", "pack_quads"]

#: The kind of the tasks, and the name of the block that packs.
KIND = "quads"
BLOCK = "pack_quads"


@lru_cache(KEPT)
def pack_quads(shape: tuple[int, ...], block: int) -> PrimFunc:
    """An image as one block of channels, with zeros in the gaps. Gives a PrimFunc (uint8 data, uint8 output).

    What makes bytes of numbers can be fused with it, so that an image is read once.

    Args:
        shape: of the data ``(n, channels, h, w)``.
        block: the channels of the output ``(n, 1, h, w, block)``, at least those of the data.
    """
    from tvm import te, tirx

    n, channels, height, width = shape
    x = te.placeholder(shape, "uint8", name="data")
    y = te.compute(
        (n, 1, height, width, block),
        lambda b, _, i, j, c: tirx.if_then_else(
            c < channels, x[b, tirx.min(c, channels - 1), i, j], tirx.const(0, "uint8")
        ),
        name=BLOCK,
        attrs=Mark(KIND).annotations,
    )
    return make_function([x, y], INJECTIVE)
