"""Replaces ONNX operators that TVM 0.27 imports wrongly by operators that it imports right.

The docstring of each repair states its rewrite as before --> after. A model that needs no repair stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["repair"]

#: Values of ``auto_pad`` with which the padding depends on the shape of the image.
_SAME = ("SAME_UPPER", "SAME_LOWER")
_POOLS = ("MaxPool", "AveragePool", "LpPool")


@dataclass
class _Graph:
    """A graph whose nodes are being rewritten.

    Attributes:
        model: the model that the graph belongs to.
        constants: initializers and the values of Constant nodes, by name.
        shapes: the known shapes of tensors, by name.
        dtypes: the known element types of tensors, by name.
        nodes: the new nodes so far.
    """

    model: onnx.ModelProto
    constants: dict[str, onnx.TensorProto]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, int]
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> str:
        """Add a node with one output. Returns the output's name."""
        node = helper.make_node(kind, list(inputs), [output], name=output)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.nodes.append(node)
        return output

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Add an initializer. Returns its name."""
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def array(self, name: str) -> NDArray[np.generic] | None:
        """The values of a constant; None if the name is no constant's."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:  # scales are never that large
            return None
        return numpy_helper.to_array(tensor)


def repair(model: onnx.ModelProto) -> None:
    """Replace the operators of a model's main graph that TVM would import wrongly, in place."""
    if not any(node.op_type in _REPAIRS and node.domain in ("", "ai.onnx") for node in model.graph.node):
        return
    graph = _read(model)
    for node in model.graph.node:
        write = _REPAIRS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if write is None or not write(graph, node):
            graph.nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(graph.nodes)


def _read(model: onnx.ModelProto) -> _Graph:
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, int] = {}
    for value in _values(model):
        kind = value.type.tensor_type
        dtypes[value.name] = kind.elem_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, tensor in constants.items():
        shapes[name], dtypes[name] = tuple(tensor.dims), tensor.data_type
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return _Graph(model, constants, shapes, dtypes)


def _values(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """The known types of tensors: those of the inputs, and those that can be inferred from them."""
    yield from model.graph.input
    # Shapes depend on small weights only, which hold shapes and axes.
    light = onnx.ModelProto()
    light.CopyFrom(model)
    del light.graph.initializer[:]
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= 64:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # ONNX Runtime says what is wrong with the model when it optimises it
        return
    yield from inferred.graph.value_info
    yield from inferred.graph.output


def _attributes(node: onnx.NodeProto) -> dict[str, object]:
    found: dict[str, object] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return found


def _ints(value: object, default: Sequence[int]) -> list[int]:
    return [int(v) for v in value] if isinstance(value, Sequence) else list(default)


def _with_attributes(node: onnx.NodeProto, drop: Sequence[str], **attributes: object) -> onnx.NodeProto:
    """A copy of the node with other ``attributes``, and without those in ``drop``."""
    new = onnx.NodeProto()
    new.CopyFrom(node)
    kept = [a for a in node.attribute if a.name not in drop and a.name not in attributes]
    del new.attribute[:]
    new.attribute.extend(kept)
    new.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return new


def _pads(total: Sequence[int], upper: bool) -> list[int]:
    """The padding at the beginning of each axis, then at its end. If ``upper``, the larger half is at the end."""
    begins = [t // 2 if upper else t - t // 2 for t in total]
    return begins + [t - b for t, b in zip(total, begins, strict=True)]


def _pool(graph: _Graph, node: onnx.NodeProto) -> bool:
    """Pool(auto_pad=SAME) --> Pool(pads). TVM computes negative padding if the kernel is smaller than the stride."""
    attributes, shape = _attributes(node), graph.shapes.get(node.input[0])
    if attributes.get("auto_pad") not in _SAME or shape is None:
        return False
    kernel = _ints(attributes.get("kernel_shape"), ())
    ones = [1] * len(kernel)
    strides, dilations = _ints(attributes.get("strides"), ones), _ints(attributes.get("dilations"), ones)
    total = [
        max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
        for size, k, s, d in zip(shape[2:], kernel, strides, dilations, strict=True)
    ]
    pads = _pads(total, attributes["auto_pad"] == "SAME_UPPER")
    graph.nodes.append(_with_attributes(node, ("auto_pad",), pads=pads))
    return True


def _transposed_convolution(graph: _Graph, node: onnx.NodeProto) -> bool:
    """ConvTranspose(output_shape) --> ConvTranspose(pads, output_padding). TVM ignores ``output_shape``."""
    attributes = _attributes(node)
    shape, weight = graph.shapes.get(node.input[0]), graph.shapes.get(node.input[1])
    if "output_shape" not in attributes or shape is None or weight is None:
        return False
    wanted = _ints(attributes["output_shape"], ())[-(len(shape) - 2) :]
    kernel, ones = _ints(attributes.get("kernel_shape"), weight[2:]), [1] * len(wanted)
    strides, dilations = _ints(attributes.get("strides"), ones), _ints(attributes.get("dilations"), ones)
    extra = _ints(attributes.get("output_padding"), [0] * len(wanted))
    total = [
        s * (size - 1) + o + (k - 1) * d + 1 - w
        for size, k, s, d, o, w in zip(shape[2:], kernel, strides, dilations, extra, wanted, strict=True)
    ]
    # What the kernel does not reach is filled with zeros at the end.
    extra = [o + max(0, -t) for o, t in zip(extra, total, strict=True)]
    # Since opset 11 the larger half of the padding goes to the end with SAME_UPPER only.
    pads = _pads([max(0, t) for t in total], attributes.get("auto_pad") == "SAME_UPPER")
    graph.nodes.append(_with_attributes(node, ("auto_pad", "output_shape"), pads=pads, output_padding=extra))
    return True


def _one_hot(graph: _Graph, node: onnx.NodeProto) -> bool:
    """OneHot --> Cast(OneHot). TVM's result has a Python type instead of the type of the values."""
    dtype = graph.dtypes.get(node.input[2])
    if not dtype:
        return False
    new = _with_attributes(node, ())
    new.output[0] = f"{node.output[0]}__untyped"
    graph.nodes.append(new)
    graph.add("Cast", [new.output[0]], node.output[0], to=dtype)
    return True


def _layer_norm(graph: _Graph, node: onnx.NodeProto) -> bool:
    """(y, mean, deviation) = LayerNormalization --> y = LayerNormalization, with the others by ReduceMean.

    TVM imports the first output only.
    """
    used = [name for name in node.output[1:] if name]
    shape = graph.shapes.get(node.input[0])
    if not used or shape is None or graph.dtypes.get(node.input[0]) != onnx.TensorProto.FLOAT:
        return False
    attributes, data, stem = _attributes(node), node.input[0], f"{node.output[0]}__"
    first = attributes.get("axis", -1)
    assert isinstance(first, int)
    axes = list(range(first % len(shape), len(shape)))
    by_input = max((o.version for o in graph.model.opset_import if o.domain in ("", "ai.onnx")), default=1) >= 18
    where = [graph.constant(f"{stem}axes", np.asarray(axes))] if by_input else []
    how: dict[str, int | Sequence[int]] = {"keepdims": 1} if by_input else {"keepdims": 1, "axes": axes}
    new = _with_attributes(node, ())
    del new.output[1:]
    graph.nodes.append(new)
    mean = node.output[1] if len(node.output) > 1 and node.output[1] else f"{stem}mean"
    graph.add("ReduceMean", [data, *where], mean, **how)
    if len(node.output) > 2 and node.output[2]:
        centred = graph.add("Sub", [data, mean], f"{stem}centred")
        square = graph.add("Mul", [centred, centred], f"{stem}square")
        variance = graph.add("ReduceMean", [square, *where], f"{stem}variance", **how)
        epsilon = graph.constant(f"{stem}epsilon", np.asarray(attributes.get("epsilon", 1e-5), dtype=np.float32))
        bounded = graph.add("Add", [variance, epsilon], f"{stem}bounded")
        graph.add("Reciprocal", [graph.add("Sqrt", [bounded], f"{stem}root")], node.output[2])
    return True


def _resize(graph: _Graph, node: onnx.NodeProto) -> bool:
    """Resize(scales) --> Gather or MatMul for each axis, if the scales are not the ratios of the sizes.

    TVM computes coordinates from the sizes, which are rounded: scaled by 2.5, 7 pixels become 17 instead of 17.5.
    """
    attributes, shape = _attributes(node), graph.shapes.get(node.input[0])
    scales = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if shape is None or scales is None or scales.size != len(shape) or "axes" in attributes:
        return False
    factors = [float(f) for f in scales.astype(np.float64)]
    sizes = [math.floor(size * factor) for size, factor in zip(shape, factors, strict=True)]
    if all(size == before * factor for size, before, factor in zip(sizes, shape, factors, strict=True)):
        return False
    mode = attributes.get("mode", "nearest")
    if mode not in ("nearest", "linear") or attributes.get("antialias", 0):
        return False
    transform = str(attributes.get("coordinate_transformation_mode", "half_pixel"))
    rounding = str(attributes.get("nearest_mode", "round_prefer_floor"))
    if transform not in ("half_pixel", "asymmetric", "pytorch_half_pixel"):
        return False
    changed = [axis for axis in range(len(shape)) if factors[axis] != 1.0]
    name = node.input[0]
    for axis in changed:
        places = _places(sizes[axis], factors[axis], transform)
        out = node.output[0] if axis == changed[-1] else f"{node.output[0]}__axis{axis}"
        if mode == "nearest":
            indices = np.clip(_ROUNDINGS[rounding](places), 0, shape[axis] - 1).astype(np.int64)
            name = graph.add("Gather", [name, graph.constant(f"{out}__indices", indices)], out, axis=axis)
        else:
            name = _interpolate(graph, name, out, axis, len(shape), _weights(places, shape[axis]))
    return True


def _places(size: int, factor: float, transform: str) -> NDArray[np.float64]:
    """The coordinate of each output element in the input, of shape ``(size,)``.

    It is computed in float32, as in ONNX Runtime: rounding decides between two neighbours that are equally near, for
    example at 8.5 / 1.7 - 0.5 = 4.5.
    """
    index, half = np.arange(size, dtype=np.float32), np.float32(0.5)
    if transform == "asymmetric":
        return (index / np.float32(factor)).astype(np.float64)
    if transform == "pytorch_half_pixel" and size == 1:
        return np.zeros(1)
    return ((index + half) / np.float32(factor) - half).astype(np.float64)


def _weights(places: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """The matrix of a linear interpolation, of shape ``(outputs, size)``."""
    bounded = np.clip(places, 0, size - 1)
    low = np.floor(bounded).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((len(places), size))
    rows = np.arange(len(places))
    np.add.at(matrix, (rows, low), 1 - (bounded - low))
    np.add.at(matrix, (rows, high), bounded - low)
    return matrix.astype(np.float32)


def _interpolate(graph: _Graph, name: str, out: str, axis: int, rank: int, matrix: NDArray[np.float32]) -> str:
    """Multiply one axis of a tensor by a matrix of shape ``(outputs, inputs)``. Returns the name of the result."""
    if axis == rank - 2:  # the matrix is the left operand
        return graph.add("MatMul", [graph.constant(f"{out}__rows", matrix), name], out)
    if axis == rank - 1:
        return graph.add("MatMul", [name, graph.constant(f"{out}__columns", np.ascontiguousarray(matrix.T))], out)
    order = [*(a for a in range(rank) if a != axis), axis]
    back = [order.index(a) for a in range(rank)]
    last = graph.add("Transpose", [name], f"{out}__last", perm=order)
    columns = graph.constant(f"{out}__columns", np.ascontiguousarray(matrix.T))
    product = graph.add("MatMul", [last, columns], f"{out}__product")
    return graph.add("Transpose", [product], out, perm=back)


#: How a coordinate becomes an index, by ``nearest_mode``.
_ROUNDINGS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}

#: The repairs by operator. A repair returns whether it has rewritten the node.
_REPAIRS: dict[str, Callable[[_Graph, onnx.NodeProto], bool]] = {
    **dict.fromkeys(_POOLS, _pool),
    "ConvTranspose": _transposed_convolution,
    "OneHot": _one_hot,
    "LayerNormalization": _layer_norm,
    "Resize": _resize,
}
