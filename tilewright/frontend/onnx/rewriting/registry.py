"""The registry of rewritings by operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import onnx

from tilewright.frontend.onnx.rewriting.graph import Graph

__all__ = ["REWRITINGS", "Rewriting", "rewriting"]

#: Adds the operators to the graph that replace a node. Returns whether it did. If not, the node stays, and nothing has
#: changed.
Rewriting: TypeAlias = Callable[[Graph, onnx.NodeProto], bool]

#: The rewritings by the domain and the type of the operator, in the order in which they are tried.
REWRITINGS: dict[tuple[str, str], list[Rewriting]] = {}


def rewriting(*kinds: str, domain: str = "") -> Callable[[Rewriting], Rewriting]:
    """Make the decorated function a rewriting of operators.

    Args:
        kinds: the types of the operators.
        domain: their domain; ``ai.onnx`` is written as the empty text.
    """

    def register(function: Rewriting) -> Rewriting:
        for kind in kinds:
            REWRITINGS.setdefault((domain, kind), []).append(function)
        return function

    return register
