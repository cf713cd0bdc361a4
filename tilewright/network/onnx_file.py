"""ONNX files as others may have made them: read within bounds, and checked before anything is computed from them.

What reads a model later (onnx's shape inference, ONNX Runtime, TVM's importer) allocates what a tensor declares and
follows a graph wherever it leads. So sizes, places of external data and the order of the graph are checked here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, numpy_helper

from tilewright.errors import ModelFormatError, ShapeError
from tilewright.reading import open_regular, read_file

__all__ = ["bare", "check_filled", "check_sizes", "read_proto"]

#: Protobuf's limit of a message. Larger weights stand in files of their own.
_MOST_BYTES = 2**31 - 1
#: The share of the machine's memory that a model's weights, or one tensor, may take: each is held several times.
_SHARE = 1 / 4
#: Graphs inside of graphs (If, Loop).
_MOST_DEPTH = 32


def read_proto(path: Path) -> onnx.ModelProto:
    """The model of a file, with its external data. Its graphs have an order, its tensors the data that they declare.

    Raises:
        ModelFormatError: it is no whole ONNX file, or refers to files outside of its directory.
    """
    try:
        model = onnx.load_model_from_string(read_file(path, _MOST_BYTES))
    except FileNotFoundError as exc:
        raise ModelFormatError(f"a model is a file, but there is none at {path}; check the path") from exc
    except Exception as exc:  # protobuf's and onnx's own errors share no base class
        raise _unreadable(path, exc) from exc
    if not model.graph.node:
        raise ModelFormatError(f"a model has operators, but {path} holds none; is it an ONNX file?")
    try:
        model.SerializeToString()  # notices texts that are none
        tensors = [tensor for graph in _graphs(model) for tensor in _tensors(graph)]
        for graph in _graphs(model):
            _check_order(graph)
        for tensor in tensors:
            _check_tensor(tensor, path.parent)
        total = sum(_bytes(tensor) for tensor in tensors)
        if total > _memory():
            raise ValueError(f"its weights have {total:,} bytes, but at most {_memory():,} fit this machine's memory")
        if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors):
            external_data_helper.load_external_data_for_model(model, str(path.parent))
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
    """Refuse a model one of whose inputs or results, as far as their shapes can be told, does not fit the memory.

    Raises:
        ShapeError: there is one.
    """
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    try:
        graph = onnx.shape_inference.infer_shapes(bare(model), data_prop=True).graph
        values += [*graph.value_info, *graph.output]
    except Exception:  # what is wrong with the model is said where it is read
        pass
    for value in values:
        extents = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if 4 * math.prod(extents) > _memory():
            raise ShapeError(
                f"every tensor fits this machine's memory, but {value.name!r} is {extents}; "
                "export the model for smaller inputs, or give them with --shape"
            )


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the values of weights: shape inference needs none, and they may pass protobuf's limit."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    made.ir_version = max(4, made.ir_version)  # before 4, a weight that is no input of the graph has no shape
    return made


def check_filled(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights that the file only declares where they would not fit the memory.

    Raises:
        ModelFormatError: they would not, or a shape is negative.
    """
    for name, shape in shapes.items():
        if any(extent < 0 for extent in shape):
            raise ModelFormatError(f"a shape is not negative, but the weight {name!r} is {shape}; export it again")
    total = sum(4 * math.prod(shape) for shape in shapes.values())
    if total > _memory():
        raise ModelFormatError(
            f"a model's weights fit this machine's memory, but this declares {total:,} bytes, of which at most "
            f"{_memory():,} can be made; is the file damaged?"
        )


def _memory() -> int:
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _SHARE)


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Every graph of a model, those inside of others included."""
    stack = [(model.graph, 0)]
    for function in model.functions:
        inner = [a.g for n in function.node for a in n.attribute if a.HasField("g")]
        stack += [(graph, 1) for graph in inner]
    while stack:
        graph, depth = stack.pop()
        if depth > _MOST_DEPTH:
            raise ValueError(f"its graphs are nested deeper than {_MOST_DEPTH}")
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    stack.append((attribute.g, depth + 1))
                stack += [(inner, depth + 1) for inner in attribute.graphs]


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_order(graph: onnx.GraphProto) -> None:
    """Raise ``ValueError`` where a result is computed twice or from itself, or a node has none."""
    makers: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        if not any(node.output):
            raise ValueError(f"the node {node.name or node.op_type!r} gives nothing")
        for name in filter(None, node.output):
            if name in makers:
                raise ValueError(f"two nodes give {name!r}")
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
        raise ValueError(f"the graph goes round in circles: {node.name or node.op_type!r} waits for itself")


def _check_tensor(tensor: TensorProto, folder: Path) -> None:
    """Raise ``ValueError`` where a tensor has not the data that it declares, or they are elsewhere."""
    nbytes = _bytes(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        _check_place(tensor, nbytes, folder)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != nbytes:
            raise ValueError(f"{tensor.name!r} declares {nbytes:,} bytes, but has {len(tensor.raw_data):,}")
    elif math.prod(tensor.dims):
        numpy_helper.to_array(tensor)  # takes what is there, then gives it its shape


def _bytes(tensor: TensorProto) -> int:
    if any(extent < 0 for extent in tensor.dims):
        raise ValueError(f"{tensor.name!r} has the shape {list(tensor.dims)}")
    count: int = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        return count
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4, getattr(TensorProto, "FLOAT4E2M1", -1)):
        return (count + 1) // 2
    if tensor.data_type in (getattr(TensorProto, "INT2", -1), getattr(TensorProto, "UINT2", -1)):
        return (count + 3) // 4
    return count * int(dtype.itemsize)


def _check_place(tensor: TensorProto, nbytes: int, folder: Path) -> None:
    """Raise ``ValueError`` where external data are not whole in a file within the model's directory."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    path = folder / name
    inside = path.resolve().is_relative_to(folder.resolve())
    if not name or not inside or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the data of {tensor.name!r} are in {name!r}, outside of the model's directory")
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
    offset = int(entries.get("offset", "0"))
    length = int(entries.get("length", nbytes))
    if offset < 0 or length != nbytes or offset + length > size:
        raise ValueError(f"the data of {tensor.name!r} are {nbytes:,} bytes, which {name!r} does not hold")
