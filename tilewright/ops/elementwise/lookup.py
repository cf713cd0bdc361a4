"""Lookup tables for functions of bytes: ``y = table[x]``.

The program reads the table at a vector of indices. Where the target has ``vpermi2b`` (AVX512-VBMI) or ``vpshufb``
(AVX2), a pass of the compiler (:mod:`tilewright.vector_tables`) keeps the table in registers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import BROADCAST, KEPT, make_function

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = ["LOOKUP", "lookup"]

#: The attribute of lookups until operators are fused.
LOOKUP = "tilewright.lookup"


@lru_cache(KEPT)
def lookup(shape: tuple[int, ...]) -> PrimFunc:
    """The bytes at other bytes' places in a table. Gives a PrimFunc (uint8 data, uint8 table ``(256,)``, uint8 output).

    Args:
        shape: of the data and of the output.
    """
    from tvm import te

    x, table = te.placeholder(shape, "uint8", name="data"), te.placeholder((256,), "uint8", name="table")
    y = te.compute(shape, lambda *place: table[x(*place).astype("int64")], name="lookup")
    return make_function([x, table, y], BROADCAST).with_attr(LOOKUP, True)
