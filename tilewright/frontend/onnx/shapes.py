"""Fixes the shapes and values of an ONNX model's inputs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tilewright.errors import ShapeError
from tilewright.fixed_input import FixedInput
from tilewright.frontend.onnx.data import copy_without_weights
from tilewright.frontend.onnx.values import COMPUTED
from tilewright.frontend.shapes import Declared, Dimension, Shapes, describe_dimensions
from tilewright.tensor import TensorSpec

__all__ = [
    "fix_values",
    "list_fixed",
    "list_inputs",
    "open_shapes",
    "read_declared",
    "read_declared_outputs",
    "release_values",
    "set_shapes",
]

#: The name of a model's property that lists the inputs whose value was fixed, in JSON.
_FIXED = "tilewright.fixed_inputs"

#: Names that exporters give to dimensions that have none.
_NAMELESS = ("?", "-1", "None", "unknown", "dynamic")


def list_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a model without its weights, in order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def read_declared(model: onnx.ModelProto) -> dict[str, tuple[Dimension, ...] | None]:
    """The dimensions of all inputs that are tensors. A negative extent is open, like a name."""
    return _read_dimensions(list_inputs(model))


def read_declared_outputs(model: onnx.ModelProto) -> dict[str, tuple[Dimension, ...] | None]:
    """The dimensions of all outputs that are tensors, as :func:`read_declared` gives those of inputs."""
    return _read_dimensions(model.graph.output)


def _read_dimensions(values: Iterable[onnx.ValueInfoProto]) -> dict[str, tuple[Dimension, ...] | None]:
    found: dict[str, tuple[Dimension, ...] | None] = {}
    for value in values:
        if value.type.WhichOneof("value") != "tensor_type":
            continue
        tensor = value.type.tensor_type
        dims = tuple(_read_dimension(dim) for dim in tensor.shape.dim)
        found[value.name] = dims if tensor.HasField("shape") else None
    return found


def _read_dimension(dim: onnx.TensorShapeProto.Dimension) -> Dimension:
    if dim.dim_value > 0 or (dim.HasField("dim_value") and dim.dim_value == 0):
        return int(dim.dim_value)
    return "" if dim.dim_param in _NAMELESS else str(dim.dim_param)


def fix_values(model: onnx.ModelProto, values: Mapping[str, tuple[float, ...]]) -> list[FixedInput]:
    """Turn inputs into constants of the model. Returns these inputs with their places among all inputs.

    Args:
        model: the model, which is changed.
        values: the values of some inputs, by name.

    Raises:
        ShapeError: there is no such input, or it cannot have such a value.
    """
    inputs = {value.name: (place, value) for place, value in enumerate(list_inputs(model))}
    found = []
    for name, numbers in values.items():
        if name not in inputs:
            raise ShapeError(f"--fix names an input of the model, but {name!r} is none; it has: {', '.join(inputs)}")
        place, value = inputs[name]
        kind = value.type.tensor_type.elem_type
        if value.type.WhichOneof("value") != "tensor_type" or kind not in COMPUTED:
            raise ShapeError(f"--fix gives an input of numbers its value, but {name!r} is none; leave it out")
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        shape = _shape_of_value(name, value.type.tensor_type, len(numbers))
        given = np.asarray(numbers)
        array = given.astype(dtype).reshape(shape)
        if array.dtype.kind != "f" and not np.array_equal(array.reshape(-1), given):
            raise ShapeError(f"--fix {name} takes numbers of {dtype}, but this is {list(numbers)}; correct it")
        found.append(FixedInput(place, TensorSpec(name, shape, str(array.dtype)), array))
        model.graph.input.remove(value)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    if found:
        model.ir_version = max(4, model.ir_version)  # before 4, every weight is an input
        names = [*list_fixed(model), *(item.spec.name for item in found)]
        entry = next((entry for entry in model.metadata_props if entry.key == _FIXED), None)
        entry = model.metadata_props.add() if entry is None else entry
        entry.key, entry.value = _FIXED, json.dumps(names)
    return found


def list_fixed(model: onnx.ModelProto) -> list[str]:
    """The names of the inputs that are constants of a model since :func:`fix_values`, perhaps before it was written."""
    named = next((entry.value for entry in model.metadata_props if entry.key == _FIXED), "[]")
    return [str(name) for name in json.loads(named)]


def release_values(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy in which fixed values are defaults of inputs, and shapes are open; None: no value is fixed.

    ONNX Runtime 1.32 fails or crashes when it folds an ``If`` that a fixed value decides, if shapes are fixed, too. The
    branch that is not taken may not fit these shapes. ONNX Runtime does not fold the default of an input.
    """
    names = set(list_fixed(model))
    released = [tensor for tensor in model.graph.initializer if tensor.name in names]
    if not released:
        return None
    ranks = {name: len(dims) for name, dims in read_declared(model).items() if dims is not None}
    made = open_shapes(model, {name: ("",) * rank for name, rank in ranks.items()})
    for tensor in released:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return made


def _shape_of_value(name: str, tensor: onnx.TypeProto.Tensor, count: int) -> tuple[int, ...]:
    """The shape of a value of ``count`` numbers."""
    dims = [_read_dimension(dim) or "" for dim in tensor.shape.dim]  # 0 may stand for an open dimension
    if not tensor.HasField("shape"):
        return () if count == 1 else (count,)
    open_places = [place for place, dim in enumerate(dims) if isinstance(dim, str)]
    if len(open_places) == 1:
        rest = math.prod(dim for dim in dims if isinstance(dim, int))
        dims[open_places[0]] = count // rest if count % rest == 0 else 0
    shape = tuple(dim if isinstance(dim, int) else 0 for dim in dims)
    if math.prod(shape) != count:
        raise ShapeError(
            f"--fix gives all numbers of an input, but {name!r} is [{describe_dimensions(dims)}] "
            f"and {count} were given; give as many as it has"
        )
    return shape


def set_shapes(model: onnx.ModelProto, shapes: Shapes) -> None:
    """Give inputs of a model the ``shapes``."""
    changed = False
    for value in list_inputs(model):
        if value.name not in shapes:
            continue
        wanted, shape = shapes[value.name], value.type.tensor_type.shape
        changed |= [dim.dim_value for dim in shape.dim] != list(wanted)
        del shape.dim[:]
        shape.SetInParent()
        for extent in wanted:
            shape.dim.add().dim_value = extent
    if changed:
        del model.graph.value_info[:]  # these shapes were inferred from the old ones


def open_shapes(model: onnx.ModelProto, declared: Declared) -> onnx.ModelProto:
    """A copy of a model whose inputs have the declared dimensions again, as before :func:`set_shapes`."""
    made = copy_without_weights(model)
    made.graph.initializer.extend(model.graph.initializer)
    del made.graph.value_info[:]
    for value in list_inputs(made):
        if value.name not in declared:
            continue
        dimensions, tensor = declared[value.name], value.type.tensor_type
        tensor.ClearField("shape")
        if dimensions is None:
            continue
        tensor.shape.SetInParent()
        for dimension in dimensions:
            dim = tensor.shape.dim.add()
            if isinstance(dimension, int):
                if dimension:
                    dim.dim_value = dimension
            elif dimension:
                dim.dim_param = dimension
    return made
