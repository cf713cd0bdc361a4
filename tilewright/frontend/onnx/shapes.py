"""Fixes the shapes and values of an ONNX model's inputs, and says what is missing where a dimension stays open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import product

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tilewright.errors import ShapeError
from tilewright.fixed_input import FixedInput
from tilewright.frontend.onnx.data import copy_without_weights
from tilewright.frontend.onnx.values import COMPUTED
from tilewright.frontend.shapes import Declared, Dimension, ShapeRequest, Shapes, bind_shapes, describe_dimensions
from tilewright.tensor import TensorSpec

__all__ = ["find_buckets", "fix_values", "list_inputs", "open_shapes", "read_declared", "set_shapes"]

#: Names that exporters give to dimensions that have none.
_NAMELESS = ("?", "-1", "None", "unknown", "dynamic")
#: Names of a dimension of independent examples.
_BATCHES = ("batch", "n", "b", "bs")
#: Extents that are proposed for the sides of an image, and for any other open dimension; the first that works is taken.
_SIDES, _LENGTHS = (224, 256, 640, 320, 512, 48, 32), (128, 16, 512, 64, 16000, 1)
#: How many proposals are tried.
_MOST_TRIED = 24
#: Numbers of channels by which an image is recognised.
_CHANNELS = (1, 3, 4)


def list_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a model that are no weights, in order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def read_declared(model: onnx.ModelProto) -> dict[str, tuple[Dimension, ...] | None]:
    """The dimensions of all inputs that are tensors. An extent that is not positive is open, like a name."""
    found: dict[str, tuple[Dimension, ...] | None] = {}
    for value in list_inputs(model):
        if value.type.WhichOneof("value") != "tensor_type":
            continue
        tensor = value.type.tensor_type
        dims = tuple(_read_dimension(dim) for dim in tensor.shape.dim)
        found[value.name] = dims if tensor.HasField("shape") else None
    return found


def _read_dimension(dim: onnx.TensorShapeProto.Dimension) -> Dimension:
    if dim.dim_value > 0:
        return int(dim.dim_value)
    return "" if dim.dim_param in _NAMELESS else str(dim.dim_param)


def fix_values(model: onnx.ModelProto, values: Mapping[str, tuple[float, ...]]) -> list[FixedInput]:
    """Turn inputs into constants of the model. Returns them with their places among all inputs.

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
    return found


def _shape_of_value(name: str, tensor: onnx.TypeProto.Tensor, count: int) -> tuple[int, ...]:
    """The shape of a value of ``count`` numbers."""
    dims = [_read_dimension(dim) for dim in tensor.shape.dim]
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


def find_buckets(
    model: onnx.ModelProto, request: ShapeRequest, accepts: Callable[[Shapes], bool]
) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of all inputs that are tensors, for each bucket; a single one for most models.

    Args:
        model: the model.
        request: what the user says.
        accepts: whether the model can be run with inputs of some shapes; asked only to propose shapes.

    Raises:
        ShapeError: a dimension stays open, or the request does not fit the model.
    """
    declared = read_declared(model)
    found = []
    for bound in bind_shapes(request, declared):
        shapes = {name: extents for name, shape in bound.items() if (extents := _complete(shape)) is not None}
        if len(shapes) < len(bound):
            raise _explain(declared, bound, accepts)
        found.append(shapes)
    return found


def _explain(
    declared: Declared, bound: Mapping[str, tuple[int | None, ...] | None], accepts: Callable[[Shapes], bool]
) -> ShapeError:
    """The error that names all open dimensions, with options that fix them."""
    missing = [name for name, shape in bound.items() if shape is None or None in shape]
    proposal: dict[str, tuple[int, ...]] = {}
    for proposed in _propose(declared, bound):
        proposal = proposal or proposed
        if accepts(proposed):
            proposal = proposed
            break
    have = " and ".join(f"{name!r} is [{describe_dimensions(declared[name])}]" for name in missing)
    options = " ".join(_write_options(declared, bound, missing, proposal))
    them = "it" if len(missing) == 1 else "them"
    return ShapeError(f"every input has a fixed shape, but {have}; fix {them} with {options}")


def _write_options(
    declared: Declared,
    bound: Mapping[str, tuple[int | None, ...] | None],
    missing: list[str],
    proposal: Shapes,
) -> list[str]:
    """The options that fix the missing dimensions as proposed: by the names of dimensions if these are fewer."""
    extents: dict[str, int] = {}
    nameless = False
    for name in missing:
        dimensions, shape = declared[name], bound[name]
        if dimensions is None or shape is None:
            nameless = True
            continue
        for dimension, known, extent in zip(dimensions, shape, proposal[name], strict=True):
            if known is None and isinstance(dimension, str) and dimension and dimension not in declared:
                extents[dimension] = extent
            elif known is None:
                nameless = True
    if not nameless and len(extents) < len(missing):
        return [f"--shape {_quote(name)}={extent}" for name, extent in extents.items()]
    return [f"--shape {_quote(name)}={','.join(map(str, proposal[name]))}" for name in missing]


def _quote(name: str) -> str:
    """A name as a shell takes it."""
    return name if all(c.isalnum() or c in "_-./:" for c in name) else "'" + name.replace("'", "'\\''") + "'"


def _propose(
    declared: Declared, bound: Mapping[str, tuple[int | None, ...] | None]
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes of all inputs to try, the most likely first. Dimensions of one name have one extent."""
    tried: list[dict[str, tuple[int, ...]]] = []
    for side, length, lone in product(_SIDES, _LENGTHS, (False, True)):
        names: dict[str, int] = {}
        made = {}
        for name, shape in bound.items():
            dimensions = declared[name]
            if dimensions is None or shape is None:
                made[name] = _shape_of_any(length)
                continue
            extents = []
            for place, (dimension, known) in enumerate(zip(dimensions, shape, strict=True)):
                guess = known if known is not None else _guess(dimensions, place, side, length, lone)
                if isinstance(dimension, str) and dimension:
                    guess = names.setdefault(dimension, guess)
                extents.append(guess)
            made[name] = tuple(extents)
        if made not in tried:
            tried.append(made)
            yield made
        if len(tried) >= _MOST_TRIED:
            return


def _shape_of_any(length: int) -> tuple[int, ...]:
    """A shape for an input whose number of dimensions is open."""
    return (1, length) if length > 1 else (1,)


def _guess(dimensions: tuple[Dimension, ...], place: int, side: int, length: int, lone: bool) -> int:
    """A likely extent of an open dimension.

    Args:
        dimensions: all dimensions of the input.
        place: which of them it is.
        side: the extent of the sides of images.
        length: the extent of lengths.
        lone: whether an inner dimension without a name is taken for one of examples, as in the state of a network.
    """
    name = str(dimensions[place]).lower()
    if place == 0 or "batch" in name or name in _BATCHES:
        return 1
    if len(dimensions) == 4:
        channels = dimensions[1]
        first = channels in _CHANNELS or (isinstance(channels, str) and dimensions[3] not in _CHANNELS)
        if place == 1 and first:
            return 3
        if place in ((2, 3) if first else (1, 2)):
            return side
    return 1 if lone and not name and place < len(dimensions) - 1 else length


def _complete(shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    """The shape, if all of its extents are known."""
    known = tuple(extent for extent in shape or () if extent is not None)
    return known if shape is not None and len(known) == len(shape) else None


def open_shapes(model: onnx.ModelProto, declared: Declared) -> onnx.ModelProto:
    """A copy of a model whose inputs have the dimensions that its file declares: what :func:`set_shapes` undoes."""
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
                dim.dim_value = dimension
            elif dimension:
                dim.dim_param = dimension
    return made
