"""Second derivatives of compiled graphs, which AOTAutograd refuses.

A graph runs as it was compiled. Only a backward pass with ``create_graph=True`` runs in eager PyTorch, forward pass
included: PyTorch does not say earlier that it wants second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch._functorch.config

if TYPE_CHECKING:
    from torch import fx

__all__ = ["Graph", "differentiable_twice", "has_aliases"]

#: What ``torch.compile`` calls in place of a graph.
Graph: TypeAlias = "Callable[..., Sequence[object]]"
#: Stands for a tensor among the arguments of a graph.
_TENSOR = object()


def differentiable_twice(compiled: Graph, eager: fx.GraphModule) -> Graph:
    """Add second derivatives to a compiled graph. Eager PyTorch computes them.

    Args:
        compiled: the graph as AOTAutograd made it.
        eager: the graph before.
    """

    def run(*arguments: object) -> Sequence[object]:
        if not torch.is_grad_enabled() or not any(_is_varied(argument) for argument in arguments):
            return compiled(*arguments)
        found: Sequence[object] = _Twice.apply(compiled, eager, torch.get_rng_state(), *arguments)
        return found

    return run


def has_aliases(module: fx.GraphModule) -> bool:
    """Whether a graph writes to an argument with a gradient, or returns a view of an argument or of another result.

    AOTAutograd repeats such writes and views outside the compiled graph, for autograd to see. A function around the
    graph would hide them from autograd, and gradients would be wrong.

    Args:
        module: the graph, as Dynamo makes it: with stand-ins that were changed as the tensors will be.
    """
    values: dict[str, list[torch.Tensor]] = {"placeholder": [], "output": []}
    for node in module.graph.nodes:
        for each in {"placeholder": [node], "output": node.all_input_nodes}.get(node.op, []):
            value = each.meta.get("example_value")
            if isinstance(value, torch.Tensor) and value.requires_grad:
                values[node.op].append(value)
    if any(value._version for value in values["placeholder"]):
        return True
    given = {value.untyped_storage()._cdata for value in values["placeholder"]}
    made = [value.untyped_storage()._cdata for value in values["output"]]
    return len(set(made)) < len(made) or not given.isdisjoint(made)


class _Twice(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        compiled: Graph,
        eager: fx.GraphModule,
        random: torch.Tensor,
        *arguments: object,
    ) -> tuple[object, ...]:
        """Run the graph on leaves of its own, whose gradients the backward pass asks for."""
        leaves = [_cut(argument) for argument in arguments]
        with torch.enable_grad():
            results = tuple(compiled(*leaves))
        tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
        context.save_for_backward(*tensors)
        context.others = [_TENSOR if isinstance(argument, torch.Tensor) else argument for argument in arguments]
        context.eager, context.random, context.leaves, context.results = eager, random, leaves, results
        constant = [r for r in results if isinstance(r, torch.Tensor) and not r.requires_grad]
        context.mark_non_differentiable(*constant)
        context.set_materialize_grads(False)
        return tuple(r.detach() if isinstance(r, torch.Tensor) and r.requires_grad else r for r in results)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *given: torch.Tensor | None) -> tuple[object, ...]:
        """The gradients of all arguments; by eager PyTorch if they are to be differentiated."""
        if torch.is_grad_enabled():
            arguments = _restore(context.saved_tensors, context.others)
            results = _run_eagerly(context.eager, arguments, context.random)
            return (None, None, None, *_differentiate(results, arguments, given, create=True, keep=True))
        keep = torch._C._autograd._get_current_graph_task_keep_graph()
        leaves, results = context.leaves, context.results
        if not keep:  # nobody else holds what was saved, so it is freed while the pass goes on
            context.leaves = context.results = ()
        # AOTAutograd refuses to keep a graph whose saved tensors may be written to. Nothing of ours writes there.
        with torch._functorch.config.patch(donated_buffer=torch._functorch.config.donated_buffer and not keep):
            return (None, None, None, *_differentiate(results, leaves, given, create=False, keep=keep))


def _is_varied(argument: object) -> bool:
    return isinstance(argument, torch.Tensor) and argument.requires_grad


def _cut(argument: object) -> object:
    """A leaf of the same memory for a tensor that has a gradient; other arguments as they are."""
    if isinstance(argument, torch.Tensor) and argument.requires_grad:
        return argument.detach().requires_grad_()
    return argument


def _restore(tensors: Sequence[torch.Tensor], others: Sequence[object]) -> list[object]:
    """The arguments, from the tensors among them and the rest, in which ``_TENSOR`` stands for a tensor."""
    left = iter(tensors)
    return [next(left) if other is _TENSOR else other for other in others]


def _run_eagerly(eager: fx.GraphModule, arguments: Sequence[object], random: torch.Tensor) -> Sequence[object]:
    """The results of the graph for the same random numbers. What it writes into, such as statistics, is a copy."""
    copies = [a.clone() if isinstance(a, torch.Tensor) and not a.requires_grad else a for a in arguments]
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(random)
        results: Sequence[object] = eager(*copies)
    return results


def _differentiate(
    results: Sequence[object],
    arguments: Sequence[object],
    given: Sequence[torch.Tensor | None],
    create: bool,
    keep: bool,
) -> list[torch.Tensor | None]:
    """The gradients of the arguments, None for those that have none."""
    pairs = [(r, g) for r, g in zip(results, given, strict=True) if _is_varied(r) and g is not None]
    varied = [argument for argument in arguments if _is_varied(argument)]
    if not pairs:
        return [None] * len(arguments)
    found = iter(
        torch.autograd.grad(
            [r for r, _ in pairs],
            varied,
            [g for _, g in pairs],
            retain_graph=keep,
            create_graph=create,
            allow_unused=True,
        )
    )
    return [next(found) if _is_varied(argument) else None for argument in arguments]
