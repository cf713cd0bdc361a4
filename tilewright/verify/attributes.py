"""The attributes of an ONNX node, as ONNX's reference evaluator passes them to an operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real

__all__ = ["Attributes"]


@dataclass(frozen=True)
class Attributes:
    """Reads attributes, each as a value of the type that ONNX gives it.

    Each method returns its default if the node has no such attribute. An attribute of another type than the method's is
    a ``TypeError``.

    Attributes:
        given: the node's attributes by name; None stands for an attribute that the node does not have.
    """

    given: Mapping[str, object]

    def integer(self, name: str, default: int) -> int:
        """An attribute of type INT."""
        value = self.given.get(name)
        if not isinstance(value, Integral | None):
            raise TypeError(f"the attribute {name} is an integer, but this is {value!r}")
        return default if value is None else int(value)

    def number(self, name: str, default: float) -> float:
        """An attribute of type FLOAT."""
        value = self.given.get(name)
        if not isinstance(value, Real | None):
            raise TypeError(f"the attribute {name} is a number, but this is {value!r}")
        return default if value is None else float(value)

    def text(self, name: str, default: str) -> str:
        """An attribute of type STRING."""
        value = self.given.get(name)
        if not isinstance(value, str | None):
            raise TypeError(f"the attribute {name} is a text, but this is {value!r}")
        return default if value is None else value

    def integers(self, name: str) -> list[int]:
        """An attribute of type INTS; empty if the node has none."""
        return [int(value) for value in self._list(name)]

    def numbers(self, name: str) -> list[float]:
        """An attribute of type FLOATS; empty if the node has none."""
        return [float(value) for value in self._list(name)]

    def _list(self, name: str) -> list[int | float]:
        values = self.given.get(name)
        if values is None:
            return []
        if not isinstance(values, Iterable):
            raise TypeError(f"the attribute {name} is a list, but this is {values!r}")
        return list(values)
