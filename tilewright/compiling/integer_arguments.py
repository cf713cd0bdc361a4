"""Integers that a kernel accepts as arguments: indices within the tensors that they index, divisors that are not 0."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["integer_ranges"]

#: Integers that are neither indices nor divisors.
_LOW, _HIGH = -4, 7


def integer_ranges(function: Any) -> dict[int, tuple[int, int]]:
    """The least and the greatest integer for each parameter of a ``tvm.tirx.PrimFunc`` that is of integers.

    What becomes a part of an index, in whatever way, is kept from 0 to below the least extent that is indexed with it,
    and what becomes a part of a divisor is positive.
    """
    loads, divisors = _uses(function)
    ranges: dict[int, tuple[int, int]] = {}
    for place, parameter in enumerate(function.params):
        kind = np.dtype(str(parameter.dtype)) if str(parameter.dtype) != "bool" else np.dtype(bool)
        if kind.kind not in "iu":
            continue
        name = parameter.name
        low, high = (_LOW, _HIGH) if kind.kind == "i" else (0, _HIGH)
        if name in divisors:
            low = 1
        if name in loads:
            low, high = min(max(low, 0), loads[name] - 1), loads[name] - 1
        ranges[place] = (low, max(low, high))
    return ranges


def _uses(function: Any) -> tuple[dict[str, int], set[str]]:
    """The names of buffers whose elements become indices, with the least extent indexed; and those of divisors."""
    import tvm_ffi
    from tvm import ir, tirx

    indexed: list[tuple[set[str], int]] = []
    dividing: list[set[str]] = []
    sources: dict[str, set[str]] = {}  # by the name of a buffer, those that its elements are computed from

    def index(buffer: Any, indices: Any) -> None:
        for extent, expression in zip(buffer.ty.shape, indices, strict=True):
            names = _loaded(expression)
            if names and isinstance(extent, int | tirx.IntImm):
                indexed.append((names, int(extent)))

    def load(node: Any) -> None:
        index(node.source, node.indices)

    def store(node: Any) -> None:
        index(node.buffer, node.indices)
        sources.setdefault(node.buffer.name, set()).update(_loaded(node.value))

    def divide(node: Any) -> None:
        dividing.append(_loaded(node.b))

    kinds = [(kind, divide) for kind in (tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod)]
    tvm_ffi.structural_walk(function.body, [(ir.TensorLoad, load), (tirx.BufferStore, store), *kinds])
    loads: dict[str, int] = {}
    for names, extent in indexed:
        for name in _origins(names, sources):
            loads[name] = min(extent, loads.get(name, extent))
    return loads, {name for names in dividing for name in _origins(names, sources)}


def _loaded(expression: Any) -> set[str]:
    """The names of the buffers that an expression reads."""
    import tvm_ffi
    from tvm import ir

    names: set[str] = set()
    tvm_ffi.structural_walk(expression, [(ir.TensorLoad, lambda node: names.add(node.source.name))])
    return names


def _origins(names: set[str], sources: dict[str, set[str]]) -> set[str]:
    """All buffers that some buffers are computed from, and these."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += sources.get(name, ())
    return found
