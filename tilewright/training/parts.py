"""Divides the graph of a step into parts that are compiled, few and large, and the rest, which PyTorch runs.

x -> [convolution, batch norm, relu] -> max_pool -> [convolution, ...] -> loss
-->
x -> part_0 -> max_pool -> part_1 -> loss
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tilewright.errors import TilewrightError
from tilewright.training.rewriting import draws, drop_empty, split_dropout
from tilewright.training.support import is_heavy, is_supported

if TYPE_CHECKING:
    from torch import fx, nn

__all__ = ["Part", "divide"]

#: Cuts the nodes of a part into those of smaller parts.
Cut: TypeAlias = "Callable[[Collection[fx.Node]], list[list[fx.Node]]]"
#: What the names of parts begin with.
_PREFIX = "tilewright_part_"


@dataclass(frozen=True)
class Part:
    """A part of a step's graph.

    Attributes:
        name: of the module that stands for it in the graph.
        module: takes tensors, and gives a tuple of tensors. PyTorch can run it.
        operators: the names of its operators in order, such as ``convolution.default``.
    """

    name: str
    module: fx.GraphModule
    operators: tuple[str, ...]


def divide(module: fx.GraphModule, cut: Cut | None = None) -> tuple[fx.GraphModule, tuple[Part, ...]]:
    """Gather the operators that can be compiled into parts. Returns the graph with its parts as modules, and the parts.

    Args:
        module: the graph, as AOTAutograd makes it. It may be changed.
        cut: cuts the nodes of a part into those of smaller ones, in the order of the graph; None: parts stay whole.

    Raises:
        TilewrightError: the parts need random numbers to be drawn in another order than PyTorch draws them.
    """
    from torch.fx import Graph
    from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner, Partition
    from torch.fx.passes.operator_support import OperatorSupportBase

    class Support(OperatorSupportBase):  # type: ignore[misc]
        def is_node_supported(self, submodules: dict[str, nn.Module], node: fx.Node) -> bool:
            return is_supported(node)

    _skip_aliases(module)
    split_dropout(module)
    drop_empty(module)
    partitioner = CapabilityBasedPartitioner(module, Support(), allows_single_node_partition=False)
    partitions = [part for part in partitioner.propose_partitions() if any(is_heavy(node) for node in part.nodes)]
    drawn, before = _list_draws(module.graph), Graph()
    before.output(before.graph_copy(module.graph, {}))
    order = {node: place for place, node in enumerate(module.graph.nodes)}
    partitions.sort(key=lambda part: min(order[node] for node in part.nodes))
    pieces = [piece for part in partitions for piece in (cut(part.nodes) if cut else [list(part.nodes)])]
    fused = partitioner.fuse_partitions([Partition(*entry) for entry in enumerate(pieces)], prefix=_PREFIX)
    if drawn != _list_draws(fused.graph):
        module.graph = before
        raise TilewrightError("its parts would have other random numbers than PyTorch draws")
    parts = []
    for node in fused.graph.nodes:
        if node.op == "call_module" and str(node.target).startswith(_PREFIX):
            part = fused.get_submodule(str(node.target))
            _return_tuple(fused, node, part)
            operators = [str(n.target).removeprefix("aten.") for n in part.graph.nodes if hasattr(n.target, "_schema")]
            parts.append(Part(str(node.target), part, tuple(operators)))
    fused.recompile()
    return fused, tuple(parts)


def _list_draws(graph: fx.Graph) -> list[str]:
    """The names of the nodes that draw random numbers, in order."""
    return [node.name for node in graph.nodes if draws(node)]


def _skip_aliases(module: fx.GraphModule) -> None:
    """detach(x) --> x, except as a result. An alias that reaches out of a part and back would cut the part in two."""
    graph = module.graph
    output = next(iter(reversed(graph.nodes)))
    for node in list(graph.nodes):
        if node.op == "call_function" and str(node.target) in ("aten.detach.default", "aten.alias.default"):
            source = node.args[0]
            node.replace_all_uses_with(source, delete_user_cb=lambda user: user is not output)
            if not node.users:
                graph.erase_node(node)


def _return_tuple(whole: fx.GraphModule, call: fx.Node, part: fx.GraphModule) -> None:
    """Let a part with a single result return a tuple of it, as the others do."""
    import operator

    output = next(iter(reversed(part.graph.nodes)))
    if isinstance(output.args[0], tuple | list):
        return
    output.args = ((output.args[0],),)
    part.recompile()
    with whole.graph.inserting_after(call):
        first = whole.graph.call_function(operator.getitem, (call, 0))
    call.replace_all_uses_with(first, delete_user_cb=lambda user: user is not first)
    first.meta.update(call.meta)
