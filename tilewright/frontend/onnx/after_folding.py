"""What is done to an ONNX model after ONNX Runtime has folded it."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tilewright.frontend.onnx.data import fetch_tensor, graphs
from tilewright.frontend.onnx.file import copy_for_inference
from tilewright.tensor import Array

__all__ = ["rename_made", "split_batch_norms"]


def split_batch_norms(model: onnx.ModelProto, folder: Path) -> None:
    """BatchNormalization(x) --> x * scale + shift, if ONNX Runtime found no convolution to fold it into."""
    graph = model.graph
    wanted = {name for n in graph.node if n.op_type == "BatchNormalization" for name in n.input[1:5]}
    arrays: dict[str, Array] = {}
    for tensor in graph.initializer:
        if tensor.name in wanted:
            fetch_tensor(tensor, folder)
            arrays[tensor.name] = numpy_helper.to_array(tensor)
    left = [n for n in graph.node if n.op_type == "BatchNormalization" and all(i in arrays for i in n.input[1:5])]
    ranks = _ranks(model) if left else {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "BatchNormalization" or node not in left or node.input[0] not in ranks:
            nodes.append(node)
            continue
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        gamma, beta, mean, var = (arrays[name].astype(np.float64) for name in node.input[1:5])
        scale = gamma / np.sqrt(var + epsilon)
        shift = beta - mean * scale
        column = (-1,) + (1,) * (ranks[node.input[0]] - 2)
        out = node.output[0]
        for suffix, values in (("scale", scale), ("shift", shift)):
            shaped = values.astype(np.float32).reshape(column)
            graph.initializer.append(numpy_helper.from_array(shaped, f"{out}__{suffix}"))
        nodes.append(helper.make_node("Mul", [node.input[0], f"{out}__scale"], [f"{out}__scaled"], f"{out}__mul"))
        nodes.append(helper.make_node("Add", [f"{out}__scaled", f"{out}__shift"], [out], f"{out}__add"))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for each in graphs(model) for node in each.node for name in node.input}
    used |= {output.name for each in graphs(model) for output in each.output}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:  # ONNX Runtime refuses unused ones
            del graph.initializer[index]


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """The number of dimensions of each tensor whose shape can be inferred, by name."""
    graph = onnx.shape_inference.infer_shapes(copy_for_inference(model)).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def rename_made(folded: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Rename the constants that ONNX Runtime has made: it gives their names again if it optimises a segment.

    Args:
        folded: the optimised model, which is changed.
        model: the model before that.
    """
    known = {name for graph in graphs(model) for node in graph.node for name in node.output}
    known |= {tensor.name for tensor in model.graph.initializer}
    made = [tensor for tensor in folded.graph.initializer if tensor.name not in known]
    free = (name for number in count() if (name := f"tilewright_constant{number}") not in known)
    names = {tensor.name: next(free) for tensor in made}
    for tensor in made:
        tensor.name = names[tensor.name]
    for graph in graphs(folded):
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        for output in graph.output:
            output.name = names.get(output.name, output.name)
