"""Finds the inputs of a model whose values decide which of its operators run, and the values to give them.

    Equal(sr, 16000); If(...)  -->  {"sr": "16000"}

A model that serves two sampling rates has such an input. If its value is fixed, the condition is folded away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, numpy_helper

from tilewright.frontend.onnx.values import COMPUTED, DOMAINS
from tilewright.tensor import Array

__all__ = ["explain_condition", "find_deciding"]

#: The operators that run other operators, with the places of the inputs that decide which ones, or how often.
_DECIDED = {"If": (0,), "Loop": (0, 1)}
#: Operators whose results depend on shapes only.
_SHAPES = ("Shape", "Size")


@dataclass(frozen=True)
class _Condition:
    """What a condition depends on.

    Attributes:
        inputs: the names of the model's inputs whose values it depends on.
        value: the constant that these are compared with, as ``--fix`` takes it; empty if there is none.
    """

    inputs: tuple[str, ...]
    value: str


def find_deciding(model: onnx.ModelProto) -> dict[str, str]:
    """The inputs of one number that decide a condition by themselves, each with the value that ``--fix`` may give it.

    The value is empty if nothing says which one it may be.
    """
    numbers = _list_numbers(model.graph)
    found: dict[str, str] = {}
    for node in model.graph.node:
        condition = _find_condition(model.graph, node)
        if condition is not None and len(condition.inputs) == 1 and condition.inputs[0] in numbers:
            name = condition.inputs[0]
            found[name] = found.get(name) or condition.value
    return found


def explain_condition(graph: onnx.GraphProto, node: onnx.NodeProto) -> str:
    """Why the condition of an operator is not known before the network runs; empty if no input's value decides it."""
    condition = _find_condition(graph, node)
    if condition is None or not condition.inputs:
        return ""
    names = ", ".join(map(repr, condition.inputs))
    what = "its condition depends" if node.op_type == "If" else "how often it runs depends"
    said = f"{what} on the value of the input {names}"
    if len(condition.inputs) == 1 and condition.inputs[0] in _list_numbers(graph):
        said += f"; give the input its value with --fix {condition.inputs[0]}={condition.value or 'VALUE'}"
    return said


def _find_condition(graph: onnx.GraphProto, node: onnx.NodeProto) -> _Condition | None:
    """What decides which operators a node runs; None if the node runs none."""
    if node.op_type not in _DECIDED or node.domain not in DOMAINS:
        return None
    makers = {name: each for each in graph.node for name in each.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - constants.keys()
    waiting = [node.input[place] for place in _DECIDED[node.op_type] if place < len(node.input)]
    seen: set[str] = set()
    decide: dict[str, None] = {}
    value = ""
    for name in waiting:  # grows in the loop: the nearest comparison comes first
        if name in seen:
            continue
        seen.add(name)
        if name in inputs:
            decide[name] = None
        maker = makers.get(name)
        if maker is None or maker.op_type in _SHAPES:
            continue
        if maker.op_type == "Equal" and not value:
            value = _read_constant(maker, makers, constants)
        waiting += maker.input
    return _Condition(tuple(decide), value)


def _read_constant(
    equal: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], constants: Mapping[str, TensorProto]
) -> str:
    """The single number that an ``Equal`` compares with, as a text; empty if there is none."""
    for name in equal.input:
        tensor, maker = constants.get(name), makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            tensor = next((attribute.t for attribute in maker.attribute if attribute.name == "value"), None)
        if tensor is not None and tensor.data_type in COMPUTED and tensor.data_location != TensorProto.EXTERNAL:
            array: Array = numpy_helper.to_array(tensor)
            if array.size == 1:
                return str(array.reshape(-1)[0].item()).lower()  # true and false are written so
    return ""


def _list_numbers(graph: onnx.GraphProto) -> set[str]:
    """The names of the inputs that are one number."""
    constants = {tensor.name for tensor in graph.initializer}
    return {
        value.name
        for value in graph.input
        if value.name not in constants
        and value.type.tensor_type.elem_type in COMPUTED
        and value.type.tensor_type.HasField("shape")
        and all(dim.dim_value == 1 for dim in value.type.tensor_type.shape.dim)
    }
