"""Finds the integers that a kernel accepts as arguments: indices within their tensors, divisors other than 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tvm import ir, tirx

__all__ = ["find_integer_ranges"]

#: The range of integers that are neither indices nor divisors; unsigned ones begin at 0.
_LOW, _HIGH = -4, 7


def find_integer_ranges(function: tirx.PrimFunc) -> dict[int, tuple[int, int]]:
    """The least and the greatest integer of each integer parameter of a function, by the parameter's position.

    An integer that an index depends on is at least 0, and less than the least extent that is indexed with it. An
    integer that a divisor depends on is positive. A uint16 parameter that is neither is left out: it may hold the bits
    of bfloat16 numbers, of which small integers are denormal ones.
    """
    loads, divisors = _find_uses(function)
    ranges: dict[int, tuple[int, int]] = {}
    for place, parameter in enumerate(function.params):
        kind = np.dtype(str(parameter.dtype)) if str(parameter.dtype) != "bool" else np.dtype(bool)
        if kind.kind not in "iu":
            continue
        name = parameter.name
        if kind == np.uint16 and name not in loads and name not in divisors:
            continue
        low, high = (_LOW, _HIGH) if kind.kind == "i" else (0, _HIGH)
        if name in divisors:
            low = 1
        if name in loads:
            low, high = min(max(low, 0), loads[name] - 1), loads[name] - 1
        ranges[place] = (low, max(low, high))
    return ranges


def _find_uses(function: tirx.PrimFunc) -> tuple[dict[str, int], set[str]]:
    """The buffers on whose elements indices and divisors depend.

    Returns:
        by the name of a buffer, the least extent that is indexed with its elements; and the names of the buffers that
        divisors depend on.
    """
    import tvm_ffi
    from tvm import ir, tirx

    indexed: list[tuple[set[str], int]] = []
    dividing: list[set[str]] = []
    sources: dict[str, set[str]] = {}  # by the name of a buffer, the buffers that its elements are computed from

    def index(buffer: tirx.Buffer, indices: Sequence[ir.PrimExpr]) -> None:
        for extent, expression in zip(buffer.ty.shape, indices, strict=True):
            names = _loaded(expression)
            if names and isinstance(extent, int | tirx.IntImm):
                indexed.append((names, int(extent)))

    def load(node: ir.TensorLoad) -> None:
        index(node.source, node.indices)

    def store(node: tirx.BufferStore) -> None:
        index(node.buffer, node.indices)
        sources.setdefault(node.buffer.name, set()).update(_loaded(node.value))

    def divide(node: tirx.Div) -> None:
        dividing.append(_loaded(node.b))

    kinds = [(kind, divide) for kind in (tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod)]
    tvm_ffi.structural_walk(function.body, [(ir.TensorLoad, load), (tirx.BufferStore, store), *kinds])
    loads: dict[str, int] = {}
    for names, extent in indexed:
        for name in _origins(names, sources):
            loads[name] = min(extent, loads.get(name, extent))
    return loads, {name for names in dividing for name in _origins(names, sources)}


def _loaded(expression: ir.PrimExpr) -> set[str]:
    """The names of the buffers that an expression reads."""
    import tvm_ffi
    from tvm import ir

    names: set[str] = set()
    tvm_ffi.structural_walk(expression, [(ir.TensorLoad, lambda node: names.add(node.source.name))])
    return names


def _origins(names: set[str], sources: dict[str, set[str]]) -> set[str]:
    """The buffers ``names``, and all buffers that these are computed from."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += sources.get(name, ())
    return found
