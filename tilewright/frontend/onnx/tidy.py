"""Brings an ONNX graph into a normal form: where ONNX allows several forms, one of them is used.

The docstring of each function states its rewrite as before --> after. No rewrite changes a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tilewright.errors import ModelFormatError
from tilewright.frontend.onnx.data import count_bytes, graphs
from tilewright.frontend.onnx.values import COMPUTED, DOMAINS, find_fixed, infer_types, read_names
from tilewright.measure.memory import usable_memory

__all__ = [
    "compare_booleans",
    "compute_constants",
    "densify",
    "drop_empty",
    "drop_idle",
    "drop_unread",
    "keep_constants",
    "own_weights",
]

#: The attributes of a Constant that are not a tensor, each with the dtype of the tensor that they stand for.
_PLAIN = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
#: The share of the usable memory that a sparse weight may take as a dense one: a choice.
_SHARE = 1 / 4
#: Operators with inner graphs, which are not only functions of their inputs.
_CONTROL = frozenset({"If", "Loop", "Scan"})


def densify(model: onnx.ModelProto) -> None:
    """A sparse initializer, or a sparse Constant --> a dense one.

    Raises:
        ModelFormatError: a weight does not fit the memory, or has indices outside of its shape.
    """
    for graph in graphs(model):
        graph.initializer.extend(_write_out(sparse, sparse.values.name) for sparse in graph.sparse_initializer)
        del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "sparse_value":
                    whole = _write_out(attribute.sparse_tensor, node.output[0])
                    attribute.CopyFrom(helper.make_attribute("value", whole))


def _write_out(sparse: onnx.SparseTensorProto, name: str) -> TensorProto:
    """The dense tensor of a sparse one. Raises as :func:`densify` does."""
    dims = tuple(sparse.dims)
    try:
        if any(extent < 0 for extent in dims):
            raise ValueError(f"its shape is {list(dims)}")
        if TensorProto.EXTERNAL in (sparse.values.data_location, sparse.indices.data_location):
            raise ValueError("they are in another file")
        probe = TensorProto(name=name, data_type=sparse.values.data_type, dims=dims)
        if count_bytes(probe) > usable_memory() * _SHARE:
            raise ValueError(f"its shape is {list(dims)}, which does not fit this machine's memory")
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        whole = np.zeros(math.prod(dims), dtype=values.dtype)
        whole[indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), dims)] = values
    except (ValueError, IndexError, TypeError) as exc:
        raise ModelFormatError(
            f"a sparse weight has values at places of its shape, but {name!r} has none: {exc}; export it again"
        ) from exc
    return numpy_helper.from_array(whole.reshape(dims), name)


def drop_unread(model: onnx.ModelProto) -> None:
    """MaxPool gives (y, indices) --> MaxPool gives y, if nothing reads the indices; likewise all optional outputs."""
    graph = model.graph
    versions = {"" if o.domain in DOMAINS else o.domain: o.version for o in model.opset_import}
    read = {name for node in graph.node for name in read_names(node)} | {value.name for value in graph.output}
    for node in graph.node:
        domain = "" if node.domain in DOMAINS else node.domain
        while len(node.output) > 1 and node.output[-1] not in read:
            try:
                schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 1), domain)
            except onnx.defs.SchemaError:
                break
            places = len(schema.outputs)
            optional = onnx.defs.OpSchema.FormalParameterOption.Optional
            if len(node.output) > places or schema.outputs[len(node.output) - 1].option != optional:
                break
            node.output.pop()


def own_weights(model: onnx.ModelProto) -> None:
    """An input that is also an initializer --> the initializer alone.

    ONNX files before version 4 list all weights as inputs. In later files, such an input is optional, and ONNX Runtime
    does not fold its default. An executable has no optional inputs, so it uses the default.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in weights]
    if len(kept) < len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)
    model.ir_version = max(4, model.ir_version)


def keep_constants(model: onnx.ModelProto) -> None:
    """Constant --> an initializer, whichever attribute holds its value. Constants of texts stay."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        tensor = _read_constant(node) if node.op_type == "Constant" and node.domain in DOMAINS else None
        if tensor is None:
            nodes.append(node)
            continue
        made = graph.initializer.add()
        made.CopyFrom(tensor)
        made.name = node.output[0]
    if len(nodes) < len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)


def _read_constant(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor of a Constant; None if it has texts, or an unknown attribute."""
    if len(node.attribute) != 1 or len(node.output) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value" and attribute.HasField("t"):
        return attribute.t if attribute.t.data_type != TensorProto.STRING else None
    if attribute.name in _PLAIN:
        return numpy_helper.from_array(np.asarray(helper.get_attribute_value(attribute), dtype=_PLAIN[attribute.name]))
    return None


def compare_booleans(model: onnx.ModelProto) -> None:
    """Equal(a, b) of booleans --> Not(Xor(a, b)). LLVM refuses the code that TVM 0.27 generates for Equal."""
    graph = model.graph
    if not any(node.op_type == "Equal" and node.domain in DOMAINS for node in graph.node):
        return
    types = infer_types(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        kind = types.get(node.input[0]) if node.op_type == "Equal" and node.domain in DOMAINS else None
        if kind is None or kind.tensor_type.elem_type != TensorProto.BOOL:
            nodes.append(node)
            continue
        out = node.output[0]
        nodes.append(helper.make_node("Xor", node.input, [f"{out}__differs"], name=f"{out}__differs"))
        nodes.append(helper.make_node("Not", [f"{out}__differs"], [out], name=node.name or f"{out}__equals"))
    del graph.node[:]
    graph.node.extend(nodes)


def compute_constants(model: onnx.ModelProto) -> None:
    """An output that is a weight of texts, or of another type that no kernel reads --> Identity(weight).

    Then a segment runs the Identity.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type not in COMPUTED}
    for value in graph.output:
        tensor = weights.get(value.name)
        if tensor is not None:
            tensor.name = f"{value.name}__value"
            graph.node.append(helper.make_node("Identity", [tensor.name], [value.name], name=tensor.name))
            for node in graph.node:
                node.input[:] = [tensor.name if name == value.name else name for name in node.input]


def drop_empty(model: onnx.ModelProto) -> None:
    """A node whose results have no elements --> initializers without elements, if an input of the model has none.

        x: [0, 16]; y = Relu(x W)    -->    y: [0, 8], a weight

    A concatenation loses its operands without elements. So no kernel has an empty loop.
    """
    graph = model.graph
    if not any(0 in fixed.shape for value in graph.input if (fixed := find_fixed(value.type)) is not None):
        return
    types = infer_types(model)

    def is_empty(name: str) -> bool:
        fixed = find_fixed(types.get(name))
        return fixed is not None and 0 in fixed.shape

    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        used = [name for name in node.output if name]
        if all(map(is_empty, used)) and node.domain in DOMAINS and node.op_type not in _CONTROL:
            graph.initializer.extend(_make_empty(name, types[name]) for name in used)
            continue
        if node.op_type == "Concat" and any(map(is_empty, node.input)):
            node.input[:] = [name for name in node.input if not is_empty(name)]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_idle(model)


def _make_empty(name: str, kind: onnx.TypeProto) -> TensorProto:
    tensor = kind.tensor_type
    return helper.make_tensor(name, tensor.elem_type, [dim.dim_value for dim in tensor.shape.dim], b"", raw=True)


def drop_idle(model: onnx.ModelProto) -> None:
    """Drop the nodes and weights that no output depends on. Such a node would make a segment without a result."""
    graph = model.graph
    ends = {value.name for value in graph.output}
    wanted = _add_read(ends, reversed(graph.node))
    nodes = [node for node in graph.node if wanted & set(node.output)]
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    if len(nodes) < len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)
    if len(weights) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(weights)


def _add_read(names: set[str], nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """The names, and those of all tensors that they are computed from. ``nodes`` are in reverse order."""
    found = set(names)
    for node in nodes:
        if found & set(node.output):
            found.update(read_names(node))
    return found
