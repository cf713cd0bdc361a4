"""Inputs of a network whose value was fixed when it was tuned: a call may give them, but with no other value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright.errors import ShapeError
from tilewright.executable.inputs import InputLike, to_array
from tilewright.fixed_input import FixedInput
from tilewright.tensor import Array, TensorSpec

__all__ = ["insert_fixed", "take_out_fixed"]


def insert_fixed(free: Sequence[TensorSpec], fixed: Sequence[FixedInput]) -> tuple[TensorSpec, ...]:
    """All inputs of a network in order: ``free`` ones with ``fixed`` ones at their places."""
    specs = list(free)
    for entry in sorted(fixed, key=lambda entry: entry.place):
        specs.insert(entry.place, entry.spec)
    return tuple(specs)


def take_out_fixed(values: Sequence[InputLike], fixed: Sequence[FixedInput]) -> list[InputLike]:
    """What a call gave without the fixed inputs.

    Raises:
        ShapeError: a fixed input has another value.
    """
    for entry in fixed:
        given = to_array(values[entry.place], entry.spec)
        if not np.array_equal(given, entry.value):
            raise ShapeError(
                f"this executable was tuned with {entry.spec.name}={_in_words(entry.value)}, but "
                f"{_in_words(given)} was given; tune again with --fix {entry.spec.name}={_in_words(given)}"
            )
    places = {entry.place for entry in fixed}
    return [value for place, value in enumerate(values) if place not in places]


def _in_words(array: Array) -> str:
    return ",".join(map(str, array.reshape(-1)[:8].tolist())) + (",..." if array.size > 8 else "")
