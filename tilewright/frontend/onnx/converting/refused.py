"""Operators whose values decide the size of their results. They stay in segments, even if a model declares a shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.frontend.onnx.importer import CONVERTERS, Operands

if TYPE_CHECKING:
    from tvm import relax

__all__: list[str] = []


def _refuse(given: Operands) -> Sequence[relax.Expr]:
    raise NotImplementedError("values decide how many elements it gives")


for _kind in ("NonMaxSuppression", "NonZero", "Unique"):
    CONVERTERS["", _kind] = _refuse
