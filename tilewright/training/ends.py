"""Where the forward pass ends, and where the backward pass takes what was saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx

__all__ = ["find_ends"]


def find_ends(forward: fx.GraphModule, backward: fx.GraphModule) -> tuple[fx.Node, list[Any], dict[str, fx.Node]]:
    """The ends of both passes.

    Args:
        forward: gives the results of the model, then what it saves.
        backward: takes what is saved by the same names.

    Returns:
        the output of the forward pass; what it gives, which may be constants; and the inputs of the backward pass, by
        their names.
    """
    output = next(iter(reversed(forward.graph.nodes)))
    return output, list(output.args[0]), {n.name: n for n in backward.graph.nodes if n.op == "placeholder"}
