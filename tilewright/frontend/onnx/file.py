"""Reads ONNX files within limits of size, and checks them before other libraries process them.

A file may be malformed. onnx's shape inference, ONNX Runtime and TVM's importer allocate as much memory as a tensor
declares, and loop forever on a cyclic graph. So this module checks sizes, places of external data, and the order of the
graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from tilewright.errors import ModelFormatError, ResourceError, ShapeError, TilewrightError
from tilewright.frontend.onnx.data import (
    MOST_BYTES,
    check_place,
    copy_without_weights,
    count_bytes,
    fetch_data,
    graphs,
    tensors,
)
from tilewright.measure.memory import in_words, memory_error, usable_memory
from tilewright.reading import read_file

__all__ = ["check_filled", "check_sizes", "copy_for_inference", "read_proto"]

#: The share of the usable memory that a model's weights, or one tensor, may take. Several copies of each are held.
_SHARE = 1 / 4
#: The most elements of a weight that shape inference may read, as the shape, the axes or the scales of an operator.
_MOST_READ = 1 << 16


def read_proto(path: Path) -> onnx.ModelProto:
    """The model of a file, with its external data. Its graphs have no cycles, and its tensors have all their data.

    Raises:
        ModelFormatError: the file is no whole ONNX file, or refers to files outside of its directory.
        ResourceError: the weights do not fit this machine's memory.
    """
    try:
        model = onnx.load_model_from_string(read_file(path, MOST_BYTES))
    except FileNotFoundError as exc:
        raise ModelFormatError(f"a model is a file, but there is none at {path}; check the path") from exc
    except MemoryError as exc:
        raise memory_error(f"reading {path}") from exc
    except Exception as exc:  # protobuf's and onnx's own errors share no base class
        raise _unreadable(path, exc) from exc
    if not model.graph.node and not model.graph.output:  # an output may be an input, or a weight
        raise ModelFormatError(f"a model has operators, but {path} holds none; is it an ONNX file?")
    try:
        model.SerializeToString()  # raises an error for texts that are not UTF-8
        held = [tensor for graph in graphs(model) for tensor in tensors(graph)]
        for graph in graphs(model):
            _check_order(graph)
        for tensor in held:
            _check_tensor(tensor, path.parent)
        total = sum(count_bytes(tensor) for tensor in held)
        if total > _memory():
            raise ResourceError(
                f"memory is missing: the weights of {path} take {in_words(total)}, and several copies are held, but "
                f"a command may use {in_words(usable_memory())}; raise its limit, or use a machine with more memory"
            )
        fetch_data(model, path.parent)
    except TilewrightError:
        raise
    except FileNotFoundError as exc:
        missing = Path(str(exc.filename)).name
        raise ModelFormatError(
            f"the weights of {path} are in files beside it, but there is no {missing!r}; copy that file to the "
            f"directory of {path.name}"
        ) from exc
    except MemoryError as exc:
        raise memory_error(f"reading {path}") from exc
    except Exception as exc:
        raise _unreadable(path, exc) from exc
    return model


def _unreadable(path: Path, exc: Exception) -> ModelFormatError:
    line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
    return ModelFormatError(
        f"a model is a whole ONNX file, but {path} cannot be read as one ({line}); "
        "export the model again, or check that the file was copied whole"
    )


def check_sizes(model: onnx.ModelProto) -> None:
    """Refuse a model with an input or a result that does not fit the memory, as far as shapes can be inferred.

    Raises:
        ShapeError: one does not fit.
    """
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    try:
        graph = onnx.shape_inference.infer_shapes(copy_for_inference(model), data_prop=True).graph
        values += [*graph.value_info, *graph.output]
    except Exception:  # ONNX Runtime says what is wrong with the model when it optimises it
        pass
    for value in values:
        extents = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if 4 * math.prod(extents) > _memory():
            raise ShapeError(
                f"every tensor fits this machine's memory, but {value.name!r} is {extents}; "
                "export the model for smaller inputs, or give them with --shape"
            )


def copy_for_inference(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without the values of large weights, for shape inference.

    Shape inference needs no large weights, and with them the model may exceed protobuf's limit.
    """
    made = copy_without_weights(model)
    for tensor in model.graph.initializer:
        copy = made.graph.initializer.add()
        if math.prod(tensor.dims) <= _MOST_READ and tensor.data_location != TensorProto.EXTERNAL:
            copy.CopyFrom(tensor)
        else:
            copy.name, copy.data_type = tensor.name, tensor.data_type
            copy.dims.extend(tensor.dims)
    made.ir_version = max(4, made.ir_version)  # before 4, only weights that are inputs have a shape
    return made


def check_filled(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights without data in the file, if they would not fit the memory.

    Args:
        shapes: the shapes of these float32 weights, by name.

    Raises:
        ModelFormatError: the weights would not fit, or an extent is negative.
    """
    for name, shape in shapes.items():
        if any(extent < 0 for extent in shape):
            raise ModelFormatError(
                f"a shape has no negative extent, but the weight {name!r} is {shape}; export it again"
            )
    total = sum(4 * math.prod(shape) for shape in shapes.values())
    if total > _memory():
        raise ModelFormatError(
            f"a model's weights fit this machine's memory, but this model declares {total:,} bytes, and at most "
            f"{_memory():,} can be made; check whether the file is damaged"
        )


def _memory() -> int:
    """The bytes that a model's weights, or one tensor, may take."""
    return int(usable_memory() * _SHARE)


def _check_order(graph: onnx.GraphProto) -> None:
    """Raise ``ValueError`` if a result is computed twice or from itself, or if a node has no output."""
    makers: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        if not any(node.output):
            raise ValueError(f"the node {node.name or node.op_type!r} has no output")
        for name in filter(None, node.output):
            if name in makers:
                raise ValueError(f"two nodes compute {name!r}")
            makers[name] = number
    known = {t.name for t in graph.initializer} | {v.name for v in graph.input}
    if clash := known & makers.keys():
        raise ValueError(f"{min(clash)!r} is a weight or an input, and the result of a node")
    waits = [len({makers[name] for name in node.input if name in makers}) for node in graph.node]
    readers: dict[int, set[int]] = {}
    for number, node in enumerate(graph.node):
        for name in node.input:
            if name in makers:
                readers.setdefault(makers[name], set()).add(number)
    ready = [number for number, count in enumerate(waits) if count == 0]
    for number in ready:
        for reader in readers.get(number, ()):
            waits[reader] -= 1
            if waits[reader] == 0:
                ready.append(reader)
    if len(ready) < len(waits):
        node = graph.node[next(number for number, count in enumerate(waits) if count)]
        raise ValueError(f"the graph has a cycle: {node.name or node.op_type!r} depends on itself")


def _check_tensor(tensor: TensorProto, folder: Path) -> None:
    """Raise ``ValueError`` if a tensor has less data than it declares, or its data are outside of ``folder``."""
    nbytes = count_bytes(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        check_place(tensor, folder)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != nbytes:
            raise ValueError(f"{tensor.name!r} declares {nbytes:,} bytes, but has {len(tensor.raw_data):,}")
    elif math.prod(tensor.dims):
        numpy_helper.to_array(tensor)  # fails unless the number of elements fits the shape
