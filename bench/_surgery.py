"""Changes an ONNX model in one place: the tools of ``bench._mutators``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tilewright.frontend.onnx.file import copy_for_inference

__all__ = [
    "CONTRACTIONS",
    "NORMS",
    "Anatomy",
    "Mutator",
    "Surgery",
    "attribute",
    "set_attribute",
    "size",
    "spatial",
]

#: Operators with weights that are multiplied and summed, and those that normalise.
CONTRACTIONS = ("Conv", "Gemm", "MatMul", "ConvTranspose")
NORMS = ("LayerNormalization", "BatchNormalization", "InstanceNormalization")

_FLOAT = onnx.TensorProto.FLOAT


class Anatomy:
    """What is known of a model's tensors: shapes and dtypes, as far as shape inference tells. It is made once a model.

    Args:
        model: with static shapes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = onnx.shape_inference.infer_shapes(copy_for_inference(model), data_prop=True).graph
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.floats: set[str] = set()
        for value in (*graph.value_info, *graph.input, *graph.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
                self.shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
            if kind.elem_type == _FLOAT:
                self.floats.add(value.name)
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))


class Surgery:
    """A copy of a model that may be changed, and a source of chance that says where.

    Args:
        model: the original, which stays as it is.
        anatomy: of it.
        seed: of the choices.
    """

    def __init__(self, model: onnx.ModelProto, anatomy: Anatomy, seed: Sequence[int]) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.anatomy = anatomy
        self.rng = np.random.default_rng(seed)
        self._weights = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._added = 0

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """All operators, in their order."""
        return list(self.model.graph.node)

    def weight(self, name: str) -> NDArray[Any] | None:
        """The values of a weight; None where ``name`` is computed or given."""
        tensor = self._weights.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def pick(self, nodes: Iterable[onnx.NodeProto]) -> onnx.NodeProto | None:
        """One of them by chance; None where there is none."""
        found = list(nodes)
        return found[self.rng.integers(len(found))] if found else None

    def find(self, *kinds: str, where: Callable[[onnx.NodeProto], bool] = lambda _: True) -> onnx.NodeProto | None:
        """One of the operators of these kinds, by chance."""
        return self.pick(node for node in self.nodes if node.op_type in kinds and where(node))

    def set_weight(self, name: str, values: NDArray[Any]) -> None:
        """Other values for a weight."""
        old = numpy_helper.to_array(self._weights[name])
        made = np.ascontiguousarray(values, old.dtype).reshape(old.shape)
        self._weights[name].CopyFrom(numpy_helper.from_array(made, name))

    def constant(self, values: NDArray[Any]) -> str:
        """A weight more; returns its name."""
        self._added += 1
        name = f"mutant_{self._added}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def become(self, node: onnx.NodeProto, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Another operator in the place of ``node``, with the same outputs."""
        node.CopyFrom(helper.make_node(kind, list(inputs), list(node.output), name=node.name, **attributes))

    def after(self, tensor: str, make: Callable[[str, str], list[onnx.NodeProto]]) -> None:
        """Put operators behind the operator that makes ``tensor``: all that read it read what they make of it.

        Args:
            tensor: its name, which the changed tensor has afterwards.
            make: gives the operators from the name that they read and the name that they write.
        """
        graph = self.model.graph
        place = next(i for i, node in enumerate(graph.node) if tensor in node.output)
        before = f"{tensor}__before"
        graph.node[place].output[:] = [before if o == tensor else o for o in graph.node[place].output]
        later = list(graph.node)[place + 1 :]
        del graph.node[place + 1 :]
        graph.node.extend([*make(before, tensor), *later])

    def multiply(self, tensor: str, factors: NDArray[np.float32]) -> None:
        """Multiply ``tensor`` by constants."""
        name = self.constant(factors)
        self.after(tensor, lambda old, new: [helper.make_node("Mul", [old, name], [new], name="mutant_mul")])

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor, ``()`` where it is not known."""
        weight = self.weight(tensor)
        return self.anatomy.shapes.get(tensor, ()) if weight is None else weight.shape

    def tile(self, shape: Sequence[int], width: int = 8) -> tuple[slice, ...]:
        """A tile somewhere in a tensor: up to ``width`` of each of the last two axes, one of the others."""
        sizes = [min(extent, width if axis >= len(shape) - 2 else 1) for axis, extent in enumerate(shape)]
        begins = [int(self.rng.integers(extent // size)) * size for extent, size in zip(shape, sizes, strict=True)]
        return tuple(slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=True))


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Give an attribute a value."""
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def spatial(node: onnx.NodeProto, name: str, rank: int, default: int) -> list[int]:
    """An attribute that has a number for each of ``rank`` axes, or its default for all."""
    return [int(v) for v in attribute(node, name, [default] * rank)]


def size(shape: Sequence[int]) -> int:
    """How many elements a tensor has."""
    return math.prod(shape)


#: Changes a model, and says where; None where there is no place for its mistake.
Mutator: TypeAlias = Callable[[Surgery], str | None]
