"""Tensors and nodes in a proof of independence (:mod:`tilewright.frontend.onnx.independence`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx
from onnx import helper, numpy_helper

__all__ = [
    "Extent",
    "Node",
    "Rule",
    "Tensor",
    "Unproven",
    "along",
    "broadcast",
    "inferred",
    "multiply",
    "need",
    "normal",
    "read_tensor",
    "without",
]

#: An extent; None: the watched one, whatever it is.
Extent: TypeAlias = "int | None"
#: The most elements of a tensor whose values a proof computes.
_MOST_FOLLOWED = 64


class Unproven(Exception):  # noqa: N818  a signal within these modules, not an error for users
    """Independence cannot be proven."""


@dataclass(frozen=True)
class Tensor:
    """A tensor, as far as a proof knows it.

    Attributes:
        shape: its extents; None: not known, and the tensor does not depend on watched inputs.
        axis: the watched axis; None: it has none.
        extents: the integers that it holds, if it is a small vector or a scalar of known integers.
        factors: the floating-point numbers that it holds, if it is a small constant vector.
    """

    shape: tuple[Extent, ...] | None
    axis: int | None = None
    extents: tuple[Extent, ...] | None = None
    factors: tuple[float, ...] | None = None

    @property
    def is_watched(self) -> bool:
        """Whether it depends on watched inputs."""
        return self.axis is not None or (self.extents is not None and None in self.extents)


@dataclass(frozen=True)
class Node:
    """A node and its inputs, as far as a proof knows them.

    Attributes:
        proto: the node.
        inputs: its inputs; None for those that are left out.
        opset: the version of ONNX's operators.
        shape_of: the shape of a result with the given shapes of inputs, by its name; None if it is not known.
    """

    proto: onnx.NodeProto
    inputs: Sequence[Tensor | None]
    opset: int
    shape_of: Callable[[str], tuple[int, ...] | None]

    def get(self, name: str, default: object = None) -> object:
        """An attribute."""
        found = next((a for a in self.proto.attribute if a.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def integer(self, name: str, default: int) -> int:
        """An attribute that is an integer."""
        found = self.get(name, default)
        need(isinstance(found, int))
        assert isinstance(found, int)
        return found

    def data(self, place: int = 0) -> Tensor:
        """An input that is used for its elements, of known shape."""
        tensor = self.inputs[place] if place < len(self.inputs) else None
        need(tensor is not None)
        assert tensor is not None
        need(tensor.axis is not None or not tensor.is_watched)
        need(tensor.shape is not None)
        return tensor

    def watched(self, place: int = 0) -> tuple[tuple[Extent, ...], int]:
        """The shape and the watched axis of an input, which must have one."""
        tensor = self.data(place)
        need(tensor.axis is not None)
        assert tensor.shape is not None
        assert tensor.axis is not None
        return tensor.shape, tensor.axis

    def need_free(self, *places: int) -> None:
        """Raise ``Unproven`` if one of these inputs is present and depends on watched inputs."""
        for place in places:
            tensor = self.inputs[place] if place < len(self.inputs) else None
            need(tensor is None or not tensor.is_watched)

    def integers(self, place: int, attribute: str = "") -> tuple[Extent, ...] | None:
        """Integers that are an input or, in earlier opsets, an attribute; None if there are none."""
        if place < len(self.inputs) and self.inputs[place] is not None:
            tensor = self.inputs[place]
            assert tensor is not None
            need(tensor.extents is not None)
            return tensor.extents
        found = self.get(attribute) if attribute else None
        return None if found is None else tuple(int(n) for n in found)  # type: ignore[attr-defined]

    def fixed_integers(self, place: int, attribute: str = "") -> tuple[int, ...] | None:
        """As :meth:`integers`, if none of them is the watched extent."""
        found = self.integers(place, attribute)
        if found is None:
            return None
        need(None not in found)
        return tuple(n for n in found if n is not None)


Rule: TypeAlias = Callable[[Node], list[Tensor]]


def need(condition: bool) -> None:
    """Raise ``Unproven`` unless the condition holds."""
    if not condition:
        raise Unproven


def normal(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    need(-rank <= axis < rank)
    return axis % rank


def along(shape: Sequence[Extent], axis: int) -> Tensor:
    """A tensor with the watched dimension at ``axis``."""
    made = tuple(shape)
    need(0 <= axis < len(made) and made[axis] is None and made.count(None) == 1)
    return Tensor(made, axis)


def _put(shape: Sequence[int] | None, axis: int) -> Tensor:
    """A tensor of an inferred shape, with the watched dimension at ``axis``."""
    if shape is None:
        raise Unproven
    need(0 <= axis < len(shape))
    return Tensor(tuple(None if place == axis else extent for place, extent in enumerate(shape)), axis)


def inferred(node: Node, axis: int, output: int = 0) -> Tensor:
    """An output of a node of its inferred shape, with the watched dimension at ``axis``."""
    return _put(node.shape_of(node.proto.output[output]), axis)


def broadcast(*tensors: Tensor) -> Tensor:
    """The result of an element-wise function. A watched axis is aligned with watched axes, or with extents of 1."""
    rank = max(len(tensor.shape or ()) for tensor in tensors)
    axes = {t.axis + rank - len(t.shape or ()) for t in tensors if t.axis is not None}
    need(len(axes) == 1)
    axis = axes.pop()
    shape: list[Extent] = [1] * rank
    for tensor in tensors:
        assert tensor.shape is not None
        for place, extent in enumerate(tensor.shape, rank - len(tensor.shape)):
            if place == axis:
                need(extent is None or (extent == 1 and tensor.axis is None))
                shape[place] = None
            elif extent != 1:
                need(shape[place] in (1, extent))
                shape[place] = extent
    return along(shape, axis)


def without(shape: Sequence[Extent], axis: int, axes: Sequence[int], keep: bool) -> Tensor:
    """The result of a reduction over ``axes``."""
    gone = {normal(a, len(shape)) for a in axes}
    need(axis not in gone)
    if keep:
        return along([1 if place in gone else extent for place, extent in enumerate(shape)], axis)
    left = [extent for place, extent in enumerate(shape) if place not in gone]
    return along(left, axis - sum(place < axis for place in gone))


def multiply(extents: Sequence[Extent]) -> int:
    """The product of extents, none of which is the watched one."""
    need(all(extent is not None and extent >= 0 for extent in extents))
    return math.prod(extent or 0 for extent in extents)


def read_tensor(tensor: onnx.TensorProto) -> Tensor:
    """A constant, with its numbers if it is a small vector or a scalar that lies in the model's own file."""
    shape = tuple(tensor.dims)
    small = len(shape) <= 1 and math.prod(shape) <= _MOST_FOLLOWED
    if not small or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return Tensor(shape)
    if tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        return Tensor(shape, None, tuple(int(n) for n in numpy_helper.to_array(tensor).reshape(-1)))
    if tensor.data_type == onnx.TensorProto.FLOAT:
        return Tensor(shape, None, None, tuple(float(n) for n in numpy_helper.to_array(tensor).reshape(-1)))
    return Tensor(shape)
