"""Inputs of a network whose value was fixed when it was tuned: a call may give them, but with no other value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from tilewright.errors import ShapeError
from tilewright.executable.inputs import InputLike, to_array
from tilewright.jsonable import Json
from tilewright.tensor import Array, TensorSpec

__all__ = ["FixedInput", "FixedJson", "insert_fixed", "take_out_fixed"]


class FixedJson(TypedDict):
    """A fixed input in the manifest.

    Attributes:
        place: its place among all inputs of the network.
        name: its name.
        shape: its shape.
        dtype: NumPy's name of its dtype.
        values: its elements in order.
    """

    place: int
    name: str
    shape: list[int]
    dtype: str
    values: list[Json]


@dataclass(frozen=True, eq=False)
class FixedInput:
    """An input with its value.

    Attributes:
        place: its place among all inputs of the network.
        spec: the input.
        value: its only value.
    """

    place: int
    spec: TensorSpec
    value: Array

    def to_json(self) -> FixedJson:
        """The input as JSON-able data."""
        return {
            "place": self.place,
            "name": self.spec.name,
            "shape": list(self.spec.shape),
            "dtype": self.spec.dtype,
            "values": self.value.reshape(-1).tolist(),
        }

    @classmethod
    def from_json(cls, data: FixedJson) -> FixedInput:
        """The input that :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: ``data`` is of another form.
        """
        spec = TensorSpec(str(data["name"]), tuple(data["shape"]), data["dtype"])
        if type(data["place"]) is not int or data["place"] < 0 or len(data["values"]) != math.prod(spec.shape):
            raise ValueError(f"a fixed input has a place and all of its values, but this is {data!r:.80}")
        value = np.asarray(data["values"], dtype=spec.dtype).reshape(spec.shape)
        return cls(data["place"], spec, value)


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
                f"this executable was tuned with {entry.spec.name}={_in_words(entry.value)}, "
                f"but {_in_words(given)} was given; tune again with another --fix {entry.spec.name}"
            )
    places = {entry.place for entry in fixed}
    return [value for place, value in enumerate(values) if place not in places]


def _in_words(array: Array) -> str:
    return ",".join(map(str, array.reshape(-1)[:8].tolist())) + (",..." if array.size > 8 else "")
