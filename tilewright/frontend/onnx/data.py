"""Reads and writes ONNX models whose weights are in files of their own.

A message of protobuf has at most 2 GB. A model in memory may be larger, as long as it is not serialised as a whole. So
no function here serialises or copies all weights of a model together.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tilewright.errors import ModelFormatError
from tilewright.reading import open_regular, read_file

__all__ = [
    "MOST_BYTES",
    "check_place",
    "copy_without_weights",
    "count_bytes",
    "drop_doubles",
    "fetch_data",
    "fetch_tensor",
    "graphs",
    "list_files",
    "open_model",
    "save_onnx",
    "serialize",
    "tensors",
    "write_model",
]

_Message = TypeVar("_Message", onnx.ModelProto, onnx.GraphProto)

#: The most bytes of a message of protobuf. Larger models have their weights in files of their own.
MOST_BYTES = 2**31 - 1
#: The most bytes of weights that are saved in one file with the model.
_MOST_INSIDE = 1 << 30
#: The least bytes of a tensor that is moved to the other file, and of such a tensor of integers. Smaller tensors of
#: integers stay in the model, since shape inference reads shapes, axes and the sizes of a Split.
_LEAST_OUTSIDE, _LEAST_INTEGERS_OUTSIDE = 1024, 1 << 16
#: The most levels of graphs within graphs (If, Loop).
_MOST_DEPTH = 32


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Every graph of a model, with the graphs inside of other graphs.

    Raises:
        ValueError: graphs are nested deeper than 32.
    """
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


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every tensor that a graph holds, without the tensors of graphs inside of it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def count_bytes(tensor: TensorProto) -> int:
    """The bytes of data that a tensor declares. Raises ``ValueError`` if an extent is negative."""
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


def check_place(tensor: TensorProto, folder: Path) -> None:
    """Raise ``ValueError`` or ``OSError`` if a file in ``folder`` does not hold all data of a tensor."""
    path, offset, length = _place(tensor, folder)
    nbytes = count_bytes(tensor)
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
    if offset < 0 or length != nbytes or offset + length > size:
        name = path.relative_to(folder)
        raise ValueError(f"the data of {tensor.name!r} need {nbytes:,} bytes, which {str(name)!r} does not hold")


def _place(tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """The path, offset and length of a tensor's data. Raises ``ValueError`` if they are outside of ``folder``."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    path = folder / name
    inside = path.resolve().is_relative_to(folder.resolve())
    if not name or not inside or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the data of {tensor.name!r} are in {name!r}, outside the model's directory")
    offset, length = (_read_number(tensor, entries, key) for key in ("offset", "length"))
    return path, offset or 0, count_bytes(tensor) if length is None else length


def _read_number(tensor: TensorProto, entries: Mapping[str, str], key: str) -> int | None:
    """An entry of a tensor's place; None if it is absent. Raises ``ValueError`` if it is no number."""
    text = entries.get(key)
    try:
        return None if text is None else int(text)
    except ValueError:
        raise ValueError(f"the {key} of the data of {tensor.name!r} is {text!r}, which is no number") from None


def fetch_data(model: onnx.ModelProto, folder: Path) -> None:
    """Read all tensors of a model that are in other files in ``folder``. :func:`check_place` has checked them.

    The onnx package has a function for this. It refuses directories whose names are not UTF-8.

    Raises:
        OSError, ValueError: the files cannot be read.
    """
    for graph in graphs(model):
        for tensor in tensors(graph):
            fetch_tensor(tensor, folder)


def fetch_tensor(tensor: TensorProto, folder: Path) -> None:
    """Read the data of one tensor if they are in another file. Raises as :func:`fetch_data` does."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return
    path, offset, length = _place(tensor, folder)
    with open_regular(path) as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    if length != len(tensor.raw_data):
        raise ValueError(f"{path.name!r} ends within the data of {tensor.name!r}")
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def list_files(path: Path) -> list[str]:
    """The names of a model's files, relative to its directory: its own, and those that hold data of its tensors.

    Raises:
        ModelFormatError: it cannot be read, or names a file outside of its directory.
    """
    try:
        model = onnx.load_model_from_string(read_file(path, MOST_BYTES))
        held = [t for g in graphs(model) for t in tensors(g) if t.data_location == TensorProto.EXTERNAL]
        others = {str(_place(tensor, path.parent)[0].relative_to(path.parent)) for tensor in held}
    except Exception as exc:  # protobuf's and onnx's own errors share no base class
        raise ModelFormatError(
            f"a model is a whole ONNX file, but {path} cannot be read as one ({str(exc)[:200]}); export the model again"
        ) from exc
    return [path.name, *sorted(others - {path.name})]


def open_model(path: Path) -> onnx.ModelProto:
    """Read a model that :func:`write_model` or ONNX Runtime wrote, with all data. Raises as :func:`fetch_data` does."""
    model = onnx.load_model_from_string(read_file(path, MOST_BYTES))
    fetch_data(model, path.parent)
    return model


def copy_without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without the initializers of its main graph, which are most of its size."""
    made = onnx.ModelProto()
    _copy(model, made, "graph")
    _copy(model.graph, made.graph, "initializer")
    return made


def _copy(source: _Message, target: _Message, without: str) -> None:
    """Copy all fields of a message except one."""
    for field, value in source.ListFields():
        if field.name == without:
            continue
        if isinstance(value, bool | int | float | str | bytes):
            setattr(target, field.name, value)
        elif hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        else:
            getattr(target, field.name).CopyFrom(value)


def drop_doubles(model: onnx.ModelProto) -> None:
    """Drop initializers with the name of a Constant node. ONNX Runtime writes both for inner graphs."""
    for graph in graphs(model):
        made = {name for node in graph.node for name in node.output}
        for index in reversed(range(len(graph.initializer))):
            if graph.initializer[index].name in made:
                del graph.initializer[index]


def save_onnx(model: onnx.ModelProto, path: Path, data: str = "model.bin", most_inside: int = _MOST_INSIDE) -> None:
    """Save a model with its weights in the same file, or in the file ``data`` beside it.

    Args:
        model: the model, which stays as it is.
        path: the file to write.
        data: the name of the other file.
        most_inside: the most bytes of weights that are saved in the same file.

    Raises:
        OSError: a file cannot be written.
        ModelFormatError: even without its weights the model exceeds protobuf's limit.
    """
    total = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if total > most_inside:
        write_model(model, path, data)
    else:
        path.write_bytes(serialize(model))


def serialize(model: onnx.ModelProto) -> bytes:
    """The bytes of a model whose large weights are in other files.

    Raises:
        ModelFormatError: even without these weights, the model exceeds protobuf's limit.
    """
    try:
        content: bytes = model.SerializeToString()
        return content
    except Exception as exc:  # protobuf's EncodeError is a subclass of Exception only
        raise ModelFormatError(
            "a model has less than 2 GB besides the weights of its main graph, but this one's constants have more; "
            "export them as initializers"
        ) from exc


def write_model(model: onnx.ModelProto, path: Path, data: str) -> onnx.ModelProto:
    """Write a model into the file ``path``, and the tensors of its main graph into the file ``data`` beside it.

    Returns:
        the model that was written to ``path``. Its tensors refer to the other file.

    Raises:
        OSError, ModelFormatError: as :func:`save_onnx` does.
    """
    made = copy_without_weights(model)
    with (path.parent / data).open("wb") as file:
        for tensor in model.graph.initializer:
            copy = made.graph.initializer.add()
            raw = _raw(tensor)
            integers = tensor.data_type in (TensorProto.INT32, TensorProto.INT64)
            if len(raw) < (_LEAST_INTEGERS_OUTSIDE if integers else _LEAST_OUTSIDE):
                copy.CopyFrom(tensor)
                continue
            copy.name, copy.data_type = tensor.name, tensor.data_type
            copy.dims.extend(tensor.dims)
            copy.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data), ("offset", file.tell()), ("length", len(raw))):
                entry = copy.external_data.add()
                entry.key, entry.value = key, str(value)
            file.write(raw)
    path.write_bytes(serialize(made))
    return made


def _raw(tensor: TensorProto) -> bytes:
    """The data of a tensor as bytes; empty if there are few, or if they are texts."""
    if tensor.HasField("raw_data") or math.prod(tensor.dims) < _LEAST_OUTSIDE:
        return tensor.raw_data
    if tensor.data_type not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64):
        return b""
    array = numpy_helper.to_array(tensor)
    data: bytes = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return data
