"""The inputs of a call: given by name, and those whose value was fixed, which may have no other value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tilewright.errors import ShapeError
from tilewright.executable.inputs import InputLike, to_array
from tilewright.fixed_input import FixedInput
from tilewright.tensor import Array, TensorSpec

__all__ = ["insert_fixed", "order_named", "take_out_fixed"]


def insert_fixed(free: Sequence[TensorSpec], fixed: Sequence[FixedInput]) -> tuple[TensorSpec, ...]:
    """All inputs of a network in order: ``free`` ones with ``fixed`` ones at their places."""
    specs = list(free)
    for entry in sorted(fixed, key=lambda entry: entry.place):
        specs.insert(entry.place, entry.spec)
    return tuple(specs)


def order_named(
    named: Mapping[str, InputLike], inputs: Sequence[TensorSpec], fixed: Sequence[FixedInput]
) -> list[InputLike]:
    """What a call gave by the names of inputs, in the order of ``inputs``. Fixed inputs may be left out.

    Raises:
        ShapeError: there is no input of a name, or an input is missing.
    """
    values: dict[str, InputLike] = {entry.spec.name: entry.value for entry in fixed}
    names = [spec.name for spec in inputs]
    unknown = [name for name in named if name not in names]
    missing = [name for name in names if name not in named and name not in values]
    if unknown or missing:
        said = f"{unknown[0]!r} was given" if unknown else f"{missing[0]!r} is missing"
        raise ShapeError(f"the network takes an array for each input, by the names {', '.join(names)}, but {said}")
    values |= named
    return [values[name] for name in names]


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
