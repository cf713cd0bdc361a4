"""Upgrades operators of older opsets to opset 18, so that rewritings and converters need no older ones.

Most changes are attributes that became inputs. From opset 18 to the newest one, operators only gained types and
attributes. A few operators changed more (``GroupNormalization``, ``DFT``); their rewritings support both versions.

The onnx package's own converter (``onnx.version_converter``) lacks some of these changes. It also loses data that its
internal graph cannot represent, such as weights in other files, and refuses operators of other domains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tilewright.frontend.onnx.rewriting.graph import copy_node, read_attributes, read_ints
from tilewright.frontend.onnx.values import DOMAINS, infer_types

__all__ = ["OLDEST", "upgrade", "upgrade_nodes"]

#: The oldest opset of graphs that rewritings get.
OLDEST = 18
#: The oldest version of the file format that supports this opset.
_FORMAT = 8


@dataclass
class _Writer:
    """Nodes that are being upgraded.

    Attributes:
        version: the opset of the nodes.
        types: the types of tensors, as far as they are known.
        constants: the values of constants that upgrading reads, by name.
        nodes: the new nodes so far.
    """

    version: int
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def constant(self, node: onnx.NodeProto, what: str, values: NDArray[np.generic]) -> str:
        """Add a constant that belongs to a node. Returns its name."""
        name = f"{node.output[0]}__{what}"
        tensor = numpy_helper.from_array(values, name)
        self.nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
        self.constants[name] = tensor
        return name

    def scalar_like(self, node: onnx.NodeProto, what: str, value: float) -> str:
        """Add a scalar of the element type of a node's first input. Returns its name."""
        kind = self.types.get(node.input[0])
        elem = kind.tensor_type.elem_type if kind is not None else 0
        if elem:
            dtype = helper.tensor_dtype_to_np_dtype(elem)
            with np.errstate(over="ignore"):
                return self.constant(node, what, np.asarray(value).astype(dtype))
        plain = self.constant(node, f"{what}_plain", np.asarray(value, dtype=np.float32))
        self.op("CastLike", [plain, node.input[0]], f"{node.output[0]}__{what}")
        return f"{node.output[0]}__{what}"

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """Add a node. Returns the name of its output."""
        node = helper.make_node(kind, list(inputs), [output], name=output)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.nodes.append(node)
        return output


#: Upgrades a node from ``version`` to opset 18. Returns whether it can.
_Step: TypeAlias = Callable[[_Writer, onnx.NodeProto], bool]


def upgrade(model: onnx.ModelProto) -> bool:
    """Upgrade a model to opset 18, in place; a newer one stays as it is.

    Returns:
        whether its opset is at least 18 now. Otherwise, it has an operator that opset 18 cannot express, and stays
        unchanged.
    """
    opsets = [opset for opset in model.opset_import if opset.domain in DOMAINS]
    version = max((opset.version for opset in opsets), default=OLDEST)
    if version >= OLDEST and opsets:
        return True
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = upgrade_nodes(model.graph.node, version, infer_types(model), constants)
    if nodes is None:
        return False
    _replace(model.graph, nodes)
    for opset in opsets:
        model.opset_import.remove(opset)
    model.opset_import.append(helper.make_opsetid("", OLDEST))
    if model.ir_version < _FORMAT:
        # Since format 4, a weight that is also an input is no constant.
        for value in [value for value in model.graph.input if value.name in constants]:
            model.graph.input.remove(value)
        model.ir_version = _FORMAT
    return True


def upgrade_nodes(
    nodes: Iterable[onnx.NodeProto],
    version: int,
    types: dict[str, onnx.TypeProto] | None = None,
    constants: dict[str, TensorProto] | None = None,
) -> list[onnx.NodeProto] | None:
    """Upgrade nodes of an older opset to opset 18, with the nodes of their inner graphs.

    Args:
        nodes: the nodes, which stay as they are.
        version: their opset.
        types: the types of tensors, as far as they are known.
        constants: the constants that they read.

    Returns:
        the new nodes; None if opset 18 cannot express one of them.
    """
    writer = _Writer(version, types or {}, dict(constants or {}))
    for node in nodes:
        if node.domain in DOMAINS and not _upgrade(writer, node):
            return None
        if node.domain not in DOMAINS:
            writer.nodes.append(node)
    return writer.nodes


def _upgrade(writer: _Writer, node: onnx.NodeProto) -> bool:
    if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
        writer.constants[node.output[0]] = node.attribute[0].t
    for newest, step in _STEPS.get(node.op_type, ()):
        if writer.version < newest:
            return step(writer, node)
    if _is_gone(node.op_type, writer.version):
        return False
    inner = [a for a in node.attribute if a.HasField("g") or a.graphs]
    if inner:
        node = copy_node(node)
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                nodes = upgrade_nodes(graph.node, writer.version, writer.types, writer.constants)
                if nodes is None:
                    return False
                _replace(graph, nodes)
    writer.nodes.append(node)
    return True


def _is_gone(kind: str, version: int) -> bool:
    """Whether ONNX had an operator that opset 18 lacks. Others never were in ONNX, but only in ONNX Runtime."""
    if not onnx.defs.has(kind, OLDEST, ""):
        return bool(onnx.defs.has(kind, version, ""))
    return bool(onnx.defs.get_schema(kind, OLDEST, "").deprecated)


def _replace(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    made = onnx.GraphProto()
    made.node.extend(nodes)
    del graph.node[:]
    graph.node.extend(made.node)


def _axes(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Reduce(x, axes=[1]) --> Reduce(x, [1]), and likewise for Squeeze and Unsqueeze."""
    attributes, new = read_attributes(node), copy_node(node, ("axes",))
    if "axes" in attributes:
        new.input.append(writer.constant(node, "axes", np.asarray(read_ints(attributes["axes"], ()), dtype=np.int64)))
    writer.nodes.append(new)
    return True


def _split(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Split(x, split=[1, 2]) --> Split(x, [1, 2]); without sizes, the number of outputs is an attribute."""
    attributes, new = read_attributes(node), copy_node(node, ("split",))
    if "split" in attributes:
        new.input.append(writer.constant(node, "split", np.asarray(read_ints(attributes["split"], ()), dtype=np.int64)))
    elif len(node.input) < 2 or not node.input[1]:
        new.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    writer.nodes.append(new)
    return True


def _slice(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Slice(x, starts=, ends=, axes=) --> Slice(x, starts, ends, axes)."""
    attributes, names = read_attributes(node), ("starts", "ends", "axes")
    new = copy_node(node, names)
    for name in names:
        if name in attributes:
            values = np.asarray(read_ints(attributes[name], ()), dtype=np.int64)
            new.input.append(writer.constant(node, name, values))
    writer.nodes.append(new)
    return True


def _top_k(writer: _Writer, node: onnx.NodeProto) -> bool:
    """TopK(x, k=3) --> TopK(x, [3])."""
    count = read_attributes(node).get("k", 1)
    new = copy_node(node, ("k",))
    new.input.append(writer.constant(node, "k", np.asarray([count], dtype=np.int64)))
    writer.nodes.append(new)
    return True


def _clip(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Clip(x, min=0, max=6) --> Clip(x, 0, 6)."""
    attributes = read_attributes(node)
    inputs = [node.input[0]]
    for name in ("min", "max"):
        value = attributes.get(name)
        inputs.append(writer.scalar_like(node, name, value) if isinstance(value, float) else "")
    while not inputs[-1]:
        inputs.pop()
    new = copy_node(node, ("min", "max"))
    new.input[:] = inputs
    writer.nodes.append(new)
    return True


def _pad(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Pad(x, pads=, value=) --> Pad(x, pads, value)."""
    attributes, new = read_attributes(node), copy_node(node, ("pads", "value"))
    new.input.append(writer.constant(node, "pads", np.asarray(read_ints(attributes.get("pads"), ()), dtype=np.int64)))
    value = attributes.get("value", 0.0)
    if isinstance(value, float) and value:
        new.input.append(writer.scalar_like(node, "value", value))
    writer.nodes.append(new)
    return True


def _dropout(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Dropout(x, ratio=0.5) --> Dropout(x), since nothing is dropped in inference.

    ONNX Runtime's mask is false everywhere before opset 12, and has the element type of ``x`` before opset 10.
    """
    new = copy_node(node, ("ratio",))
    writer.nodes.append(new)
    if len(node.output) > 1 and node.output[1]:
        new.output[1] = f"{node.output[1]}__kept"
        truth = node.output[1] if writer.version >= 10 else f"{node.output[1]}__dropped"
        writer.op("Not", [new.output[1]], truth)
        if writer.version < 10:
            writer.op("CastLike", [truth, node.input[0]], node.output[1])
    return True


def _batch_norm(writer: _Writer, node: onnx.NodeProto) -> bool:
    """BatchNormalization(spatial=0) --> (x - mean) / sqrt(var + epsilon) * scale + bias, one of each per element.

    Other nodes lose the attribute, and outputs that are for training only.
    """
    attributes, stem = read_attributes(node), f"{node.output[0]}__"
    if attributes.get("spatial", 1):
        new = copy_node(node, ("spatial",))
        del new.output[1:]
        writer.nodes.append(new)
        return True
    epsilon = attributes.get("epsilon", 1e-5)
    assert isinstance(epsilon, float)
    x, scale, bias, mean, var = node.input
    bounded = writer.op("Add", [var, writer.scalar_like(node, "epsilon", epsilon)], f"{stem}bounded")
    deviation = writer.op("Sqrt", [bounded], f"{stem}deviation")
    centred = writer.op("Sub", [x, mean], f"{stem}centred")
    normal = writer.op("Div", [centred, deviation], f"{stem}normal")
    writer.op("Add", [writer.op("Mul", [normal, scale], f"{stem}scaled"), bias], node.output[0])
    return True


def _scatter(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Scatter --> ScatterElements, its newer name."""
    new = copy_node(node)
    new.op_type = "ScatterElements"
    writer.nodes.append(new)
    return True


def _flat(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Softmax(x, axis=1) --> Reshape(Softmax(Flatten(x, axis=1), axis=-1)), over all axes from ``axis`` on.

    If the axis is the last one, only the attribute changes. Likewise for LogSoftmax and Hardmax.
    """
    axis = read_attributes(node).get("axis", 1)
    assert isinstance(axis, int)
    kind = writer.types.get(node.input[0])
    rank = len(kind.tensor_type.shape.dim) if kind is not None and kind.tensor_type.HasField("shape") else None
    if rank and axis % rank == rank - 1:
        writer.nodes.append(copy_node(node, axis=-1))
        return True
    stem = f"{node.output[0]}__"
    flat = writer.op("Flatten", [node.input[0]], f"{stem}flat", axis=axis)
    rows = writer.op(node.op_type, [flat], f"{stem}rows", axis=-1)
    writer.op("Reshape", [rows, writer.op("Shape", [node.input[0]], f"{stem}shape")], node.output[0])
    return True


def _upsample(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Upsample(x, scales) --> Resize(x, scales), with coordinates that start at the corner.

    Likewise for Resize before opset 11. If an axis becomes smaller, ONNX Runtime takes the next element instead of the
    previous one. If other axes become larger, there are two steps.
    """
    attributes = read_attributes(node)
    mode = str(attributes.get("mode", "nearest"))
    mode = "linear" if mode == "bilinear" else mode
    scales = _read_scales(writer, node, attributes)
    if scales is None:
        if len(node.input) < 2:
            return False
        steps = [(node.input[1], "floor")]
    else:
        steps = []
        for rounding, kept in (("ceil", scales < 1), ("floor", scales >= 1)):
            part = np.where(kept, scales, np.float32(1))
            if (part != 1).any():
                steps.append((writer.constant(node, f"scales_{rounding}", part.astype(np.float32)), rounding))
        if mode == "linear" or not steps:
            steps = [(writer.constant(node, "scales", scales), "floor")]
    name = node.input[0]
    for number, (factors, rounding) in enumerate(steps):
        out = node.output[0] if number == len(steps) - 1 else f"{node.output[0]}__smaller"
        how: dict[str, object] = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
        if mode == "nearest":
            how["nearest_mode"] = rounding
        name = writer.op("Resize", [name, "", factors], out, **how)
    return True


def _read_scales(writer: _Writer, node: onnx.NodeProto, attributes: dict[str, object]) -> NDArray[np.float32] | None:
    given = attributes.get("scales")
    if isinstance(given, Sequence):
        return np.asarray(given, dtype=np.float32)
    tensor = writer.constants.get(node.input[1]) if len(node.input) > 1 else None
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
        return None
    return numpy_helper.to_array(tensor).astype(np.float32).reshape(-1)


def _resize(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Resize stays as it is, apart from a mode of opset 11 that no other opset has."""
    if read_attributes(node).get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        return False
    writer.nodes.append(node)
    return True


def _roi_align(writer: _Writer, node: onnx.NodeProto) -> bool:
    """RoiAlign --> RoiAlign(coordinate_transformation_mode="output_half_pixel"), the only one before opset 16."""
    writer.nodes.append(copy_node(node, coordinate_transformation_mode="output_half_pixel"))
    return True


def _refuse(writer: _Writer, node: onnx.NodeProto) -> bool:
    """Refuse a node, since no operator of opset 18 computes the same."""
    return False


#: The upgrade steps of each operator, each with the opset before which it is needed. The first step that applies is
#: taken.
_STEPS: dict[str, tuple[tuple[int, _Step], ...]] = {
    **dict.fromkeys(
        (
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSumSquare",
        ),
        ((18, _axes),),
    ),
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), ((13, _axes),)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), ((13, _flat),)),
    "BatchNormalization": ((14, _batch_norm),),
    "Clip": ((11, _clip),),
    "Dropout": ((12, _dropout),),
    "Pad": ((11, _pad),),
    "Resize": ((11, _upsample), (13, _resize)),
    "RoiAlign": ((16, _roi_align),),
    "Scan": ((9, _refuse),),
    "Scatter": ((18, _scatter),),
    "Slice": ((10, _slice),),
    "Split": ((18, _split),),
    "TopK": ((10, _top_k),),
    "Upsample": ((10, _upsample),),
}
