"""How many elements a vector of a program has."""

from __future__ import annotations

__all__ = ["fit_vector"]


def fit_vector(extent: int, lanes: int) -> int:
    """The elements of a vector along a dimension: all lanes, or the largest power of two that a shorter one has.

    Args:
        extent: elements of the dimension, at least 1.
        lanes: elements of a vector register, a power of two.
    """
    return lanes if extent >= lanes else 1 << (extent.bit_length() - 1)
