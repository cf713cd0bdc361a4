"""Polynomials of one variable, as coefficients by powers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

__all__ = ["CLOSE", "Polynomial", "add", "multiply", "near"]

Polynomial: TypeAlias = "dict[int, float]"

#: The largest relative difference between a constant and the one that was meant. Exporters round it to float32 or to
#: six digits.
CLOSE = 2e-6


def near(found: Mapping[int, float] | None, wanted: Mapping[int, float]) -> bool:
    """Whether two polynomials have about the same coefficients. None is no polynomial, so it is near to none."""
    known = {power: value for power, value in (found or {}).items() if value != 0.0}
    return known.keys() == wanted.keys() and all(
        abs(known[power] - value) <= CLOSE * abs(value) for power, value in wanted.items()
    )


def add(a: Mapping[int, float], b: Mapping[int, float]) -> Polynomial:
    """The sum of two polynomials."""
    return {power: a.get(power, 0.0) + b.get(power, 0.0) for power in a.keys() | b.keys()}


def multiply(a: Mapping[int, float], b: Mapping[int, float]) -> Polynomial:
    """The product of two polynomials."""
    result: Polynomial = {}
    for i, u in a.items():
        for j, v in b.items():
            result[i + j] = result.get(i + j, 0.0) + u * v
    return result
