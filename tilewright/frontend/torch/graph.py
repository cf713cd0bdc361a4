"""A PyTorch program as a graph of ATen's operators, with its weights by their nodes. Rewriting changes it in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tilewright.errors import ShapeError, UnsupportedOperatorError

if TYPE_CHECKING:
    import torch
    from torch import fx
    from torch.export import ExportedProgram

__all__ = ["Argument", "TorchGraph", "describe", "name_of", "shape_of"]

#: An argument of a node: another node, a number, a text, a type, nothing, or several of these.
Argument: TypeAlias = "fx.Node | bool | int | float | str | torch.dtype | Sequence[Argument] | None"


@dataclass
class TorchGraph:
    """A graph that is being rewritten.

    Attributes:
        graph: the nodes. Each has the shape and dtype of its result as ``node.meta["val"]``.
        inputs: the placeholders of the program's inputs, in order.
        weights: the tensor of each placeholder that is no input: a parameter, a buffer, or a constant.
    """

    graph: fx.Graph
    inputs: list[fx.Node]
    weights: dict[fx.Node, torch.Tensor]

    @classmethod
    def of(cls, program: ExportedProgram) -> TorchGraph:
        """The graph of a program without runtime assertions. The program's own graph is used, and changed.

        Args:
            program: a program of tensors, with its operators decomposed.

        Raises:
            ShapeError: an input is no tensor of a fixed shape.
            UnsupportedOperatorError: the program holds an object that is no tensor.
        """
        from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

        graph = program.graph_module.graph
        stored = {**program.constants, **program.state_dict}
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        made = cls(graph, [], {})
        for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                if not isinstance(spec.arg, TensorArgument):
                    raise ShapeError(
                        f"every input is a tensor, but {node.name!r} is {getattr(spec.arg, 'value', spec.arg)!r:.80}; "
                        "export a module that holds this value itself"
                    )
                check_shape(node)
                made.inputs.append(node)
            elif spec.target in stored and hasattr(stored[spec.target], "detach"):
                made.weights[node] = stored[spec.target].detach()
            else:
                raise UnsupportedOperatorError(
                    f"a program holds nothing but tensors, but {spec.target!r} is none; export the model without it"
                )
        # Inputs that are changed are further results.
        results = zip(made.output.args[0], program.graph_signature.output_specs, strict=True)
        made.output.args = (tuple(node for node, spec in results if spec.kind == OutputKind.USER_OUTPUT),)
        for node in reversed(list(graph.nodes)):
            if node.op == "call_function" and not node.users and "assert" in name_of(node):
                graph.erase_node(node)
        return made

    @property
    def calls(self) -> Iterator[fx.Node]:
        """The calls of operators, in order. Nodes may be replaced meanwhile."""
        return iter([node for node in self.graph.nodes if node.op == "call_function"])

    @property
    def output(self) -> fx.Node:
        """The node that lists the results."""
        return next(iter(reversed(self.graph.nodes)))

    def add_weight(self, name: str, tensor: torch.Tensor) -> fx.Node:
        """A new placeholder for a weight."""
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.placeholder(name)
        node.meta["val"] = tensor.to("meta")
        self.weights[node] = tensor
        return node

    def insert(self, before: fx.Node, target: Callable[..., object], *args: Argument) -> fx.Node:
        """A new call of an operator.

        Args:
            before: the node before which it stands.
            target: the operator.
            args: its arguments.
        """
        import torch
        from torch.utils import _pytree as pytree

        with self.graph.inserting_before(before):
            node = self.graph.call_function(target, args)

        def stand_in(value: object) -> object:
            if not isinstance(value, torch.Tensor):
                return value
            return torch.empty(value.shape, dtype=value.dtype, device="meta")

        given = torch.fx.node.map_arg(args, lambda source: pytree.tree_map(stand_in, source.meta["val"]))
        node.meta["val"] = target(*given)
        return node

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let all that read ``old`` read ``new``, and drop ``old``."""
        old.replace_all_uses_with(new)
        self.graph.erase_node(old)

    def drop_dead(self) -> None:
        """Drop the calls and the weights that nothing reads."""
        self.graph.eliminate_dead_code()
        for node in [node for node in self.weights if not node.users]:
            self.graph.erase_node(node)
            del self.weights[node]


def check_shape(node: fx.Node) -> None:
    """Raise ``ShapeError`` if a tensor has an open dimension."""
    shape = list(node.meta["val"].shape)
    if not all(isinstance(extent, int) for extent in shape):
        extents = ", ".join(map(str, shape))
        raise ShapeError(
            f"every tensor has a fixed shape, but {node.name!r} is [{extents}]; export it with fixed shapes"
        )


def name_of(node: fx.Node) -> str:
    """The name of a node's operator, such as ``aten.add.Tensor``."""
    return str(node.target) if hasattr(node.target, "_schema") else getattr(node.target, "__name__", str(node.target))


def describe(node: fx.Node) -> str:
    """An operator and its node, in words for a message."""
    return f"{name_of(node)} (node {node.name!r})"


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's result."""
    return tuple(int(extent) for extent in node.meta["val"].shape)
