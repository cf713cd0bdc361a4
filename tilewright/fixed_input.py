"""An input of a network whose value was fixed when the network was read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from tilewright.jsonable import Json
from tilewright.tensor import Array, TensorSpec

__all__ = ["FixedInput", "FixedJson"]


class FixedJson(TypedDict):
    """A fixed input as JSON-able data.

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
