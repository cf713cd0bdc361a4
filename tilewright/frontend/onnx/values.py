"""The types of the tensors of an ONNX graph that are known before it runs: element types, and fixed shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from tilewright.tensor import OPTIONAL, SEQUENCE, TEXTS, TensorSpec

__all__ = ["COMPUTED", "DOMAINS", "FixedTensor", "describe_end", "find_fixed", "infer_types", "read_names"]

#: The names of ONNX's own operator domain.
DOMAINS = ("", "ai.onnx")
#: The element types that kernels compute with.
COMPUTED = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
        TensorProto.BOOL,
    }
)
#: The most elements of a constant that shape inference reads: shapes, axes, sizes.
_MOST_READ = 64
#: The most times that types are inferred: once more after each operator of ``ai.onnx.ml`` that another one follows.
_MOST_ROUNDS = 8
#: The operators of ``ai.onnx.ml`` whose result has the shape of the input, with its element type; 0: it depends.
_SHAPED = {
    "Binarizer": 0,
    "CategoryMapper": 0,
    "Imputer": 0,
    "LabelEncoder": 0,
    "Normalizer": TensorProto.FLOAT,
    "Scaler": TensorProto.FLOAT,
}
#: Those whose result has the element type of the input.
_KEEPING = ("Binarizer", "Imputer")
#: The element types of a LabelEncoder's results, by the attribute that lists them.
_VALUES = {
    "values_floats": TensorProto.FLOAT,
    "values_int64s": TensorProto.INT64,
    "values_strings": TensorProto.STRING,
}


@dataclass(frozen=True)
class FixedTensor:
    """A tensor of numbers whose shape is known before the network runs.

    Attributes:
        shape: its shape.
        elem_type: its element type, as ``onnx.TensorProto`` numbers them.
    """

    shape: tuple[int, ...]
    elem_type: int

    @property
    def dtype(self) -> str:
        """NumPy's name of the element type."""
        return str(helper.tensor_dtype_to_np_dtype(self.elem_type))

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def infer_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The types of tensors by name, as far as they are declared or can be inferred. Weights may be in other files."""
    graph = model.graph
    found = {value.name: value.type for value in (*graph.value_info, *graph.output, *graph.input)}
    # Shapes depend on small weights only, which hold shapes and axes.
    light = onnx.ModelProto()
    light.CopyFrom(_without_weights(model))
    light.ir_version = max(4, light.ir_version)  # before 4, only weights that are inputs have a shape
    for tensor in graph.initializer:
        kind = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        found[tensor.name] = kind
        if math.prod(tensor.dims) <= _MOST_READ and tensor.data_location != TensorProto.EXTERNAL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in {value.name for value in graph.input}:
            light.graph.input.append(helper.make_value_info(tensor.name, kind))
    for _ in range(_MOST_ROUNDS):
        try:
            inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
        except Exception:  # ONNX Runtime says what is wrong with the model when it optimises it
            return found
        for value in (*inferred.value_info, *inferred.output):
            if value.type.WhichOneof("value") is not None and not _says_more(found.get(value.name), value.type):
                found[value.name] = value.type
        # The inference of ONNX takes the types of values that it cannot infer from the graph.
        known = _infer_learnt(graph, found)
        found |= known
        light.graph.value_info.extend(helper.make_value_info(name, kind) for name, kind in known.items())
        if not known:
            break
    return found


def _infer_learnt(graph: onnx.GraphProto, types: Mapping[str, onnx.TypeProto]) -> dict[str, onnx.TypeProto]:
    """The types of results of other domains' operators, as far as ``types`` does not say them.

    ONNX infers no shapes for operators of ``ai.onnx.ml`` that keep their input's shape, or not for all of their
    versions, and none for ``MatMulNBits`` of ``com.microsoft``.
    """
    found: dict[str, onnx.TypeProto] = {}
    for node in graph.node:
        if (node.domain, node.op_type) == ("com.microsoft", "MatMulNBits"):
            given = find_fixed(types.get(node.input[0]))
            columns = next((a.i for a in node.attribute if a.name == "N"), 0)
            if given is not None and columns and find_fixed(types.get(node.output[0])) is None:
                found[node.output[0]] = helper.make_tensor_type_proto(given.elem_type, (*given.shape[:-1], columns))
            continue
        if node.domain != "ai.onnx.ml" or node.op_type not in _SHAPED or find_fixed(types.get(node.output[0])):
            continue
        given = find_fixed(types.get(node.input[0]))
        kind = _SHAPED[node.op_type] or (_find_learnt(node, given.elem_type) if given is not None else 0)
        if given is not None and kind:
            found[node.output[0]] = helper.make_tensor_type_proto(kind, given.shape)
    return found


def _find_learnt(node: onnx.NodeProto, given: int) -> int:
    """The element type of the result of an operator of ``ai.onnx.ml`` for an input of the type ``given``."""
    if node.op_type in _KEEPING:
        return given
    for attribute in node.attribute:
        if attribute.name.startswith("values_"):  # of a LabelEncoder from version 2 on
            return int(attribute.t.data_type) if attribute.name == "values_tensor" else _VALUES[attribute.name]
    return int(TensorProto.INT64 if given == TensorProto.STRING else TensorProto.STRING)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    from tilewright.frontend.onnx.data import copy_without_weights

    return copy_without_weights(model)


def _says_more(known: onnx.TypeProto | None, other: onnx.TypeProto) -> bool:
    """Whether a known type has a fixed shape, and the other type does not."""
    return known is not None and find_fixed(known) is not None and find_fixed(other) is None


def find_fixed(kind: onnx.TypeProto | None) -> FixedTensor | None:
    """The tensor that a type describes, if all its extents are known; otherwise None."""
    if kind is None or kind.WhichOneof("value") != "tensor_type":
        return None
    tensor = kind.tensor_type
    if not tensor.elem_type or not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    if not all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
        return None
    return FixedTensor(tuple(dim.dim_value for dim in dims), tensor.elem_type)


def describe_end(name: str, kind: onnx.TypeProto) -> TensorSpec:
    """An input or output of a model. Unknown extents are -1. A tensor without a shape gets the shape ``(-1,)``."""
    which = kind.WhichOneof("value")
    if which != "tensor_type":
        return TensorSpec(name, (), OPTIONAL if which == "optional_type" else SEQUENCE)
    tensor = kind.tensor_type
    shape: tuple[int, ...] = (-1,)
    if tensor.HasField("shape"):
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    if tensor.elem_type == TensorProto.STRING:
        return TensorSpec(name, shape, TEXTS)
    return TensorSpec(name, shape, str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)))


def read_names(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads: its inputs, and the names that its inner graphs read from outside."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _outer_names(graph)


def _outer_names(graph: onnx.GraphProto) -> Iterator[str]:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for name in read_names(node):
            if name not in own:
                yield name
        own.update(node.output)
    for value in graph.output:
        if value.name not in own:
            yield value.name
