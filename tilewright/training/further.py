"""Batches of another size than the first ones, such as the last one of an epoch.

Dynamo makes a graph with open sizes when a size changes. Such a graph would serve the batches of the first size, too.
So its sizes are fixed: the first graph stays in our kernels, and each further batch size gets a graph of its own.
PyTorch runs that graph until its size has come often enough to be worth compiling.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from tilewright.training.live import first_line

if TYPE_CHECKING:
    from torch import fx

__all__ = ["Further", "has_open_sizes"]

#: A graph of a step, as ``torch.compile`` calls it.
Graph: TypeAlias = "Callable[..., object]"
#: Runs of a graph of a further size in PyTorch before it is compiled. (A choice: compiling takes as long as hundreds of
#: steps, so the last batch of an epoch is compiled if there are many epochs.)
_WORTHWHILE = 32

_log = logging.getLogger("tilewright.training")


class Further:
    """A graph for batches of a further size: in eager PyTorch at first, and compiled when it has come in 32 steps.

    Args:
        module: the graph. Its open sizes become those of this batch, by guards of Dynamo's.
        make: compiles the graph for arguments like those that it is given.
        soon: whether it is compiled at once, since that costs little.
    """

    def __init__(self, module: fx.GraphModule, make: Callable[[Sequence[object]], Graph], soon: bool) -> None:
        self._run: Graph = module.forward
        self._make: Callable[[Sequence[object]], Graph] | None = make
        self._left = 0 if soon else _WORTHWHILE
        why = _fix_sizes(module)
        if why:
            self._make = None
            _log.warning("a graph of a further batch size stays with PyTorch: %s", why)
        elif not soon:
            _log.info("a graph of a further batch size runs in PyTorch for its first %d steps", _WORTHWHILE)

    def __call__(self, *arguments: object) -> object:
        """The results of the graph."""
        if self._make is not None and self._left <= 0:
            make, self._make = self._make, None
            try:
                self._run = make(arguments)
            except Exception as error:  # whatever fails, the training goes on
                _log.warning("a graph of a further batch size stays with PyTorch: %s", first_line(error))
        self._left -= 1
        return self._run(*arguments)


def has_open_sizes(module: fx.GraphModule) -> bool:
    """Whether a graph takes tensors of which Dynamo leaves a size open."""
    return any(True for _ in _find_sizes(module))


def _fix_sizes(module: fx.GraphModule) -> str:
    """Fix the open sizes of a graph, with guards of Dynamo's that admit these sizes only.

    Returns:
        why they cannot be fixed; empty: they are fixed.
    """
    sizes = list(_find_sizes(module))
    for size in sizes:
        tracked = size.node.shape_env.tracked_fakes
        contexts = [fake.symbolic_context for fake in tracked or ()]
        limits = [limit for context in contexts for limit in getattr(context, "constraint_sizes", None) or ()]
        if tracked is None or any(limit is not None and not limit.warn_only for limit in limits):
            return "a size was marked as dynamic, and kernels are compiled for fixed sizes"
    for size in sizes:
        int(size)
    if any(isinstance(value, torch.SymInt) and value.node.maybe_as_int() is None for value in _find_values(module)):
        return "it takes a number that changes from step to step besides"
    return ""


def _find_sizes(module: fx.GraphModule) -> Iterator[torch.SymInt]:
    for value in _find_values(module):
        if isinstance(value, torch.Tensor):
            numbers = (*value.shape, *value.stride(), value.storage_offset())
            yield from (number for number in numbers if isinstance(number, torch.SymInt))


def _find_values(module: fx.GraphModule) -> Iterator[object]:
    """What stands in for the arguments of a graph."""
    return (node.meta.get("example_value") for node in module.graph.nodes if node.op == "placeholder")
