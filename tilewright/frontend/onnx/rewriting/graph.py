"""A graph whose nodes are being rewritten. It has the types of tensors, and methods that add nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tilewright.frontend.onnx.data import fetch_tensor
from tilewright.frontend.onnx.values import DOMAINS, FixedTensor, find_fixed, infer_types

__all__ = ["Attribute", "Graph", "Operand", "copy_node", "read_attributes", "read_ints"]

#: The value of an attribute.
Attribute: TypeAlias = "int | float | str | Sequence[int] | Sequence[float] | TensorProto"
#: An input of a new node: a tensor's name, the values of a constant, or None for an optional input that is absent.
Operand: TypeAlias = "str | NDArray[np.generic] | None"

_Found = TypeVar("_Found")

#: The most elements of a constant that type inference of a new node reads.
_MOST_READ = 64
#: The file of new weights that are large, and the least bytes of such a weight.
_DATA, _LEAST_OUTSIDE = "rewritten.bin", 1 << 16


class Graph:
    """The main graph of a model, whose nodes are being rewritten.

    Its opset is at least ``OLDEST`` of the module ``upgrade``.

    Args:
        model: the model.
        folder: the directory of weights that are not in the model; None: their values are not read.

    Attributes:
        model: the model.
        opset: the version of ONNX's operators.
        nodes: the new nodes so far.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        self.model = model
        self.opset = max((o.version for o in model.opset_import if o.domain in DOMAINS), default=1)
        self.nodes: list[onnx.NodeProto] = []
        self._folder = folder
        self._types = infer_types(model)
        _infer_backwards(model, self._types)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._constants |= dict(_constant_nodes(model))
        self._names = set(self._types)
        self._names.update(name for node in model.graph.node for name in (*node.input, *node.output))
        self._remembered: dict[Callable[[Graph], object], object] = {}
        self._stem = "rewritten"
        self._count = 0
        self._begun = 0, 0, 0

    def begin(self, node: onnx.NodeProto) -> None:
        """Begin to rewrite ``node``. The names of new nodes and tensors contain that of its first output."""
        self._stem = next(filter(None, node.output), node.op_type)
        self._count = 0
        self._begun = len(self.nodes), len(self.model.graph.initializer), len(self.model.functions)

    def undo(self) -> None:
        """Remove everything that was added since :meth:`begin`."""
        nodes, constants, functions = self._begun
        del self.nodes[nodes:]
        del self.model.graph.initializer[constants:]
        del self.model.functions[functions:]

    def remember(self, find: Callable[[Graph], _Found]) -> _Found:
        """What ``find`` finds in the model as it was before it is rewritten. It is asked once."""
        if find not in self._remembered:
            self._remembered[find] = find(self)
        return cast("_Found", self._remembered[find])

    # Types and values of tensors

    def fixed(self, name: str) -> FixedTensor | None:
        """The shape and element type of a tensor; None if they are not known before the network runs."""
        return find_fixed(self._types.get(name))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor; None if it is not known."""
        found = self.fixed(name)
        return None if found is None else found.shape

    def rank(self, name: str) -> int | None:
        """The number of dimensions of a tensor, even if its extents are not known; None if it is not known."""
        kind = self._types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        return len(kind.tensor_type.shape.dim)

    def elem_type(self, name: str) -> int:
        """The element type of a tensor, as ``onnx.TensorProto`` numbers them; 0 if it is not known."""
        kind = self._types.get(name)
        return 0 if kind is None else int(kind.tensor_type.elem_type)

    def type_of(self, name: str) -> onnx.TypeProto:
        """The type of a tensor, as far as it is known; an empty type if nothing is known."""
        return self._types.get(name, onnx.TypeProto())

    def array(self, name: str) -> NDArray[np.generic] | None:
        """The values of a constant. None if it is no constant, or its values are in a file and there is no folder."""
        tensor = self._constants.get(name)
        if tensor is None:
            return None
        if tensor.data_location == TensorProto.EXTERNAL:
            if self._folder is None:
                return None
            inside = TensorProto()
            inside.CopyFrom(tensor)
            fetch_tensor(inside, self._folder)
            tensor = inside
        return numpy_helper.to_array(tensor)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is a constant, wherever its values are."""
        return name in self._constants

    def ints(self, name: str) -> list[int] | None:
        """The values of a constant of integers, flattened; None if it is no constant, or the name is empty."""
        found = self.array(name) if name else None
        return None if found is None else [int(v) for v in found.reshape(-1).tolist()]

    def like(self, name: str, values: object) -> NDArray[np.generic]:
        """``values`` as an array with the element type of tensor ``name``."""
        return np.asarray(values).astype(helper.tensor_dtype_to_np_dtype(self.elem_type(name)))

    # New nodes and constants

    def op(self, kind: str, *inputs: Operand, out: str = "", domain: str = "", **attributes: Attribute | None) -> str:
        """Add a node with one output.

        Args:
            kind: the type of the operator.
            inputs: names of tensors, or arrays, which become constants.
            out: the name of the output; empty: a new name.
            domain: the domain of the operator.
            attributes: its attributes; those that are None are left out.

        Returns:
            the name of the output.
        """
        return self.ops(kind, *inputs, outs=(out or self.new_name(kind.lower()),), domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: Operand, outs: Sequence[str], domain: str = "", **attributes: Attribute | None
    ) -> Sequence[str]:
        """Add a node with the outputs ``outs``, as :meth:`op` does. Returns ``outs``."""
        names = ["" if x is None else x if isinstance(x, str) else self.constant(x) for x in inputs]
        while names and not names[-1]:
            names.pop()
        node = helper.make_node(kind, names, list(outs), name=next(filter(None, outs)), domain=domain)
        node.attribute.extend(
            helper.make_attribute(name, value) for name, value in attributes.items() if value is not None
        )
        self.add(node)
        return outs

    def add(self, node: onnx.NodeProto) -> None:
        """Add a node."""
        self.nodes.append(node)
        self._names.update(filter(None, node.output))
        if any(name and self.fixed(name) is None for name in node.output):
            self._infer(node)

    def constant(self, values: NDArray[np.generic], name: str = "") -> str:
        """Add an initializer, whose name is ``name`` or a new one. Returns its name."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name or self.new_name("c"))
        if self._folder is not None and values.nbytes >= _LEAST_OUTSIDE:
            _move_outside(tensor, self._folder)
        self.model.graph.initializer.append(tensor)
        self._constants[tensor.name] = tensor
        self._types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        self._names.add(tensor.name)
        return tensor.name

    def new_name(self, what: str = "t") -> str:
        """A name that no tensor of the model has."""
        while True:
            self._count += 1
            name = f"{self._stem}__{what}{self._count}"
            if name not in self._names:
                self._names.add(name)
                return name

    def _infer(self, node: onnx.NodeProto) -> None:
        """Infer the types of a new node's outputs."""
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        except onnx.defs.SchemaError:
            return
        known = {name: self._types[name] for name in node.input if name in self._types}
        if any(name and name not in known for name in node.input):
            return
        data = {name: self._constants[name] for name in node.input if self._is_small(name)}
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, known, data, opset_imports=list(self.model.opset_import)
            )
        except Exception:  # ONNX Runtime says what is wrong with the model when it optimises it
            return
        for name, kind in found.items():
            if self.fixed(name) is None:
                self._types[name] = kind

    def _is_small(self, name: str) -> bool:
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return False
        return int(np.prod(tensor.dims)) <= _MOST_READ


#: Operators whose result has the shape of their first input.
_ALIKE = frozenset(
    {"Abs", "Cast", "Cos", "Exp", "Identity", "Log", "Neg", "Reciprocal", "Relu", "Round", "Sin", "Sqrt", "Tanh"}
)


def _infer_backwards(model: onnx.ModelProto, types: dict[str, onnx.TypeProto]) -> None:
    """Infer shapes of inputs from those of results, since a model may declare only the shapes of its outputs."""
    for node in reversed(model.graph.node):
        if node.domain not in DOMAINS or node.op_type not in _ALIKE:
            continue
        result, kind = find_fixed(types.get(node.output[0])), types.get(node.input[0])
        elem = kind.tensor_type.elem_type if kind is not None else 0
        if result is not None and elem and find_fixed(kind) is None:
            types[node.input[0]] = helper.make_tensor_type_proto(elem, result.shape)


def _move_outside(tensor: TensorProto, folder: Path) -> None:
    """Move the data of a tensor into a file, since a message of protobuf has at most 2 GB."""
    with (folder / _DATA).open("ab") as file:
        place = (("location", _DATA), ("offset", str(file.tell())), ("length", str(len(tensor.raw_data))))
        file.write(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in place:
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _constant_nodes(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """The values of Constant nodes, by name."""
    for node in model.graph.node:
        if node.op_type != "Constant" or node.domain not in DOMAINS or len(node.attribute) != 1:
            continue
        name, value = node.attribute[0].name, helper.get_attribute_value(node.attribute[0])
        if name == "value":
            yield node.output[0], value
        elif name in ("value_int", "value_ints"):
            yield node.output[0], numpy_helper.from_array(np.asarray(value, dtype=np.int64))
        elif name in ("value_float", "value_floats"):
            yield node.output[0], numpy_helper.from_array(np.asarray(value, dtype=np.float32))


def read_attributes(node: onnx.NodeProto) -> dict[str, object]:
    """The attributes of a node as Python values; texts as ``str``."""
    found: dict[str, object] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return found


def read_ints(value: object, default: Sequence[int]) -> list[int]:
    """The value of an attribute of integers; ``default`` if it is absent."""
    return [int(v) for v in value] if isinstance(value, Sequence) else list(default)


def copy_node(node: onnx.NodeProto, drop: Sequence[str] = (), **attributes: object) -> onnx.NodeProto:
    """A copy of the node with ``attributes`` replaced, and without those in ``drop``."""
    new = onnx.NodeProto()
    new.CopyFrom(node)
    kept = [a for a in node.attribute if a.name not in drop and a.name not in attributes]
    del new.attribute[:]
    new.attribute.extend(kept)
    new.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return new
