"""Functions that empty the list of their arguments, so that no tensor lives longer than it is needed.

In eager mode, a backward pass frees each saved activation after its last use. A part of a graph does so, too, if nobody
else holds what it takes. So the graph hands a part a list, which the part empties:

    y = part(a, b)
    -->
    given = gather(a, b); del a, b; y = part(given)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import torch
from torch import fx

__all__ = ["Boxed", "box", "copy_module", "hand_over"]

#: A function that takes a list of tensors, and may empty it. It gives what its graph does.
Boxed: TypeAlias = Callable[[list[Any]], Any]


def box(module: fx.GraphModule) -> Boxed:
    """A function that runs a graph, empties the list of its arguments, and frees each after its last use.

    Args:
        module: the graph. It is changed, so that nothing else can run it.
    """
    code = getattr(torch.fx.graph, "_BoxedCodeGen", None)
    if code is None:  # before PyTorch 2.9
        return _unbox(module)
    module.graph.set_codegen(code())
    module.recompile()
    run: Boxed = module.forward
    return run


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph in a module of its own, with the same parameters."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return fx.GraphModule(module, graph)


def hand_over(whole: fx.GraphModule, names: Collection[str]) -> None:
    """Have parts called with a list that they may empty.

    Args:
        whole: a pass, whose parts are modules.
        names: of the parts.
    """
    for call in whole.graph.nodes:
        if call.op == "call_module" and call.target in names:
            with whole.graph.inserting_before(call):
                call.args = (whole.graph.call_function(_gather, call.args),)
    whole.recompile()


def _gather(*tensors: object) -> list[object]:
    """The list that a part empties."""
    return list(tensors)


def _unbox(module: fx.GraphModule) -> Boxed:
    def run(arguments: list[Any]) -> Any:
        given = tuple(arguments)
        arguments.clear()
        return module.forward(*given)

    return run
