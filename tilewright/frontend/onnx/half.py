"""Changes a network of float16 or bfloat16 so that it computes in float32. Its inputs and outputs of float16 stay.

    x: float16                                x: float16
    y = Conv(x, w: float16)    -->            wide = Cast(x, float32)
                                              result = Conv(wide, w: float32)
                                              y = Cast(result, float16)

No template schedules these types, and float32 is at least as precise. A ``Cast`` inside the network that only rounds to
float16 or bfloat16 becomes a cast to float32, and is removed later. Without that rounding, the outputs are closer to
the exact ones. The reference for the outputs does not round there either. A number above 65,504 stays finite inside the
network, and becomes infinite in an output of float16.

NumPy has no bfloat16, and float32 represents every bfloat16. So inputs and outputs of bfloat16 become float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper

from tilewright.frontend.onnx.data import fetch_tensor, graphs, tensors
from tilewright.frontend.onnx.values import DOMAINS, infer_types
from tilewright.tensor import Array

__all__ = ["HALF", "has_half", "narrow_weights", "widen"]

#: The element types that become float32.
HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
#: Attributes that hold an element type.
_TYPES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision", "precision"})
#: Domains whose operators take float32 wherever they take float16.
_WIDENED = (*DOMAINS, "com.microsoft", "ai.onnx.ml")
#: Operators that read the bits of numbers, so that they must compute in float16.
_KEPT = frozenset({"BitCast"})
#: The oldest opset that is supported. In older ones, the type of a Cast is a text.
_LEAST_OPSET = 6
#: The least bytes of a weight that is written to the file of converted weights.
_LEAST_OUTSIDE = 1024
#: The file of weights that were converted to float32.
_FILE = "wide.bin"


def has_half(model: onnx.ModelProto) -> bool:
    """Whether any tensor of a model is of float16 or bfloat16, as far as its weights, types and casts say."""
    for graph in graphs(model):
        if any(tensor.data_type in HALF for tensor in tensors(graph)):
            return True
        if any(kind.elem_type in HALF for value in _values(graph) for kind in _tensor_types(value.type)):
            return True
        if any(_names_half(node) for node in graph.node):
            return True
    return any(_names_half(node) for function in model.functions for node in function.node)


def _names_half(node: onnx.NodeProto) -> bool:
    return any(a.name in _TYPES and a.i in HALF for a in node.attribute)


def widen(model: onnx.ModelProto, folder: Path) -> bool:
    """Change a model in place, so that it computes in float32 instead of float16 and bfloat16.

    Args:
        model: the model. Weights may be in files in ``folder``.
        folder: the directory, to which converted weights are written, too.

    Returns:
        whether the model was changed. It stays as it is in three cases: it has none of these types, its
        inputs or outputs are sequences of them, or an inner graph has an operator that must compute in float16.

    Raises:
        OSError: a file cannot be read or written.
    """
    version = max((o.version for o in model.opset_import if o.domain in DOMAINS), default=1)
    if not has_half(model) or version < _LEAST_OPSET:
        return False
    if model.functions:
        model.CopyFrom(inliner.inline_local_functions(model))
    ends = (*model.graph.input, *model.graph.output)
    if any(_holds_half(value.type) and not value.type.HasField("tensor_type") for value in ends):
        return False
    if any(_is_kept(node) for graph in graphs(model) if graph is not model.graph for node in graph.node):
        return False
    types = infer_types(model) if any(map(_is_kept, model.graph.node)) else {}
    _rename_ends(model)
    if types:
        _keep_bits(model, types)
    for graph in graphs(model):
        for value in _values(graph):
            if graph is not model.graph or value.name not in {v.name for v in ends}:
                _widen_type(value.type)
        for node in graph.node:
            if _is_kept(node) or _is_border(node):
                continue
            for attribute in node.attribute:
                if attribute.name in _TYPES and attribute.i in HALF:
                    attribute.i = TensorProto.FLOAT
                _widen_type(attribute.tp)
    with (folder / _FILE).open("wb") as file:
        for graph in graphs(model):
            for tensor in tensors(graph):
                if tensor.data_type in HALF:
                    _widen_tensor(tensor, folder, file)
    for value in ends:
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return True


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from (*graph.input, *graph.output, *graph.value_info)


def _tensor_types(kind: onnx.TypeProto) -> Iterator[onnx.TypeProto.Tensor]:
    """The types of the tensors that a type is made of."""
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        yield getattr(kind, which)
    elif which in ("sequence_type", "optional_type"):
        yield from _tensor_types(getattr(kind, which).elem_type)
    elif which == "map_type":
        yield from _tensor_types(kind.map_type.value_type)


def _holds_half(kind: onnx.TypeProto | None) -> bool:
    return kind is not None and any(tensor.elem_type in HALF for tensor in _tensor_types(kind))


def _widen_type(kind: onnx.TypeProto) -> None:
    for tensor in _tensor_types(kind):
        if tensor.elem_type in HALF:
            tensor.elem_type = TensorProto.FLOAT


def _is_kept(node: onnx.NodeProto) -> bool:
    """Whether a node must compute in its own types."""
    return node.domain not in _WIDENED or (node.domain in DOMAINS and node.op_type in _KEPT)


#: The prefix of the names of the nodes that this module adds.
_BORDER = "tilewright_border_"


def _is_border(node: onnx.NodeProto) -> bool:
    return node.name.startswith(_BORDER)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{_BORDER}{target}", to=kind)


def _rename_ends(model: onnx.ModelProto) -> None:
    """Add casts after inputs and before outputs of float16 or bfloat16. The tensors inside get new names."""
    graph = model.graph
    taken = _all_names(model)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {v.name: v.type.tensor_type.elem_type for v in graph.input if v.name not in weights}
    inputs = {name: kind for name, kind in inputs.items() if kind in HALF}
    made = {name for node in graph.node for name in node.output} | weights
    outputs = {v.name: v.type.tensor_type.elem_type for v in graph.output}
    outputs = {name: kind for name, kind in outputs.items() if kind in HALF and name in made}
    wide = {name: _fresh(f"{name}__wide", taken) for name in (*inputs, *outputs)}
    _rename(graph, wide)
    for tensor in graph.initializer:
        tensor.name = wide.get(tensor.name, tensor.name)
    for value in graph.value_info:
        value.name = wide.get(value.name, value.name)
    before = [_cast(name, wide[name], TensorProto.FLOAT) for name in inputs]
    # An output of bfloat16 is given as float32, so nothing is rounded.
    after = [
        _cast(wide[name], name, TensorProto.FLOAT if kind == TensorProto.BFLOAT16 else kind)
        for name, kind in outputs.items()
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)


def _all_names(model: onnx.ModelProto) -> set[str]:
    names: set[str] = set()
    for graph in graphs(model):
        names |= {value.name for value in _values(graph)} | {tensor.name for tensor in graph.initializer}
        names |= {tensor.values.name for tensor in graph.sparse_initializer}
        for node in graph.node:
            names.update(node.input, node.output)
    return names


def _fresh(name: str, taken: set[str]) -> str:
    """A name that is not in ``taken``. It is added to ``taken``."""
    made, number = name, 0
    while made in taken:
        number += 1
        made = f"{name}{number}"
    taken.add(made)
    return made


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors in a graph and its inner graphs, except where an inner graph defines the same name."""
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
        for inner in _inner_graphs(node):
            own = {v.name for v in inner.input} | {t.name for t in inner.initializer}
            own |= {name for other in inner.node for name in other.output}
            seen = {name: new for name, new in names.items() if name not in own}
            _rename(inner, seen)
            for value in inner.output:  # an output may be a tensor from outside
                value.name = seen.get(value.name, value.name)


def _inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _keep_bits(model: onnx.ModelProto, types: Mapping[str, onnx.TypeProto]) -> None:
    """Put casts around the nodes of the main graph that must compute in float16."""
    graph, taken = model.graph, _all_names(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if not _is_kept(node):
            nodes.append(node)
            continue
        after: list[onnx.NodeProto] = []
        for place, name in enumerate(node.input):
            kind = _elem_type(types, name)
            if kind in HALF:
                node.input[place] = _fresh(f"{name}__narrow", taken)
                nodes.append(_cast(name, node.input[place], kind))
        for place, name in enumerate(node.output):
            if _elem_type(types, name) in HALF:
                node.output[place] = _fresh(f"{name}__narrow", taken)
                after.append(_cast(node.output[place], name, TensorProto.FLOAT))
        nodes += [node, *after]
    del graph.node[:]
    graph.node.extend(nodes)


def _elem_type(types: Mapping[str, onnx.TypeProto], name: str) -> int:
    """The element type of a tensor, which may have been renamed; 0 if it is not known."""
    kind = types.get(name) or types.get(name.rpartition("__wide")[0])
    return kind.tensor_type.elem_type if kind is not None else 0


def _widen_tensor(tensor: TensorProto, folder: Path, file: BinaryIO) -> None:
    """Convert a weight to float32. A large one is written to ``file``."""
    outside = tensor.data_location == TensorProto.EXTERNAL
    fetch_tensor(tensor, folder)
    wide = numpy_helper.to_array(tensor).astype(np.float32)
    name, dims = tensor.name, list(tensor.dims)
    tensor.Clear()
    tensor.name, tensor.data_type = name, TensorProto.FLOAT
    tensor.dims.extend(dims)
    data = wide.astype("<f4", copy=False).tobytes()
    if not outside or len(data) < _LEAST_OUTSIDE:
        tensor.raw_data = data
        return
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", _FILE), ("offset", file.tell()), ("length", len(data))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    file.write(data)


def narrow_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with float32 weights stored as float16 or bfloat16, if that represents them exactly.

        w: float32  -->  narrow: float16; w = Cast(narrow, float32)

    ONNX Runtime converts them to float32 when it loads the model.
    """
    from tilewright.executable.narrow import narrow_array

    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    found: dict[int, tuple[Array, str]] = {}
    for place, tensor in enumerate(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in ends:
            array, kind = narrow_array(numpy_helper.to_array(tensor))
            if kind:
                found[place] = (array, kind)
    if not found:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    taken, casts = _all_names(made), []
    for place, (array, kind) in found.items():
        tensor = made.graph.initializer[place]
        name = tensor.name
        tensor.Clear()
        tensor.name = _fresh(f"{name}__narrow", taken)
        tensor.data_type = TensorProto.FLOAT16 if kind == "float16" else TensorProto.BFLOAT16
        tensor.dims.extend(array.shape)
        tensor.raw_data = array.tobytes()
        casts.append(_cast(tensor.name, name, TensorProto.FLOAT))
    _prepend(made.graph, casts)
    return made


def _prepend(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    whole = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(whole)
