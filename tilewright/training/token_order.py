"""Activations of tokens are saved in the order in which kernels compute them, and not in one that only PyTorch needs.

PyTorch's attention layers with ``batch_first`` bring tokens ``(b, t, c)`` into the order ``(t, b, c)``, and their
result back. A part computes all of that in the first order, since a product of rows is the same in any. What is saved
between would be written once more in the second order, and the backward pass would bring it back:

    u = clone(transpose(x)); save u  -->  y = mm(u.view(t * b, c), w).view(t, b, d); save y
    -->
    save clone(transpose(y)), of shape (b, t, d), which costs nothing  -->  y = clone(transpose(it))
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from tilewright.training.ends import find_ends
from tilewright.training.views import WHOLE

if TYPE_CHECKING:
    from torch import fx

__all__ = ["save_in_order"]

#: Steps from one tensor to another one with the same elements: an operator of PyTorch with its second argument.
_Steps: TypeAlias = "list[tuple[object, list[int] | None]]"

#: Operators that change no order of rows, with the place of the operand that has the rows.
_SAME_ROWS = {"clone": 0, "view": 0, "_unsafe_view": 0, "mm": 0, "addmm": 1, "add": 0, "gelu": 0, "relu": 0}
_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
#: PyTorch counts the saved tensors with this mark in their ``meta``.
_COUNTED = "saved_tensor_with_no_vc_check"


def save_in_order(forward: fx.GraphModule, backward: fx.GraphModule, outputs: int) -> None:
    """Save activations of tokens that were transposed in the order before. Changes both graphs.

    Args:
        forward: gives the results of the model, then what it saves.
        backward: takes what is saved by the same names.
        outputs: how many results the model has.
    """
    output, results, takers = find_ends(forward, backward)
    attended = {_find_tokens(node) for node in forward.graph.nodes if _is_attention(node)}
    swaps = {swap for node in forward.graph.nodes if (swap := _find_swap(node)) in attended and swap is not None}
    for place, saved in enumerate(results[outputs:], outputs):
        taker = takers.get(getattr(saved, "name", ""))
        if taker is None or saved in results[:outputs] or _COUNTED in saved.meta or not swaps:
            continue
        steps = _find_steps(saved, swaps)
        if steps is None:
            continue
        there, back = steps
        with forward.graph.inserting_before(output):
            turned = _apply(forward.graph, saved, there, f"{saved.name}_turned")
        turned.meta[WHOLE] = True
        results[place] = turned
        with backward.graph.inserting_before(taker):
            new = backward.graph.placeholder(turned.name)
        new.meta |= {key: value for key, value in turned.meta.items() if key == "val"}
        first = next(node for node in backward.graph.nodes if node.op != "placeholder")
        with backward.graph.inserting_before(first):
            again = _apply(backward.graph, new, back, f"{saved.name}_again")
        taker.replace_all_uses_with(again)
        backward.graph.erase_node(taker)
    before = output.args[0]
    output.args = (type(before)(results), *output.args[1:])
    for module in (forward, backward):
        module.graph.lint()
        module.recompile()


def _find_steps(saved: fx.Node, swaps: set[tuple[int, int]]) -> tuple[_Steps, _Steps] | None:
    """How to bring what is saved into the order of the tokens before, and back; None if it is in that order."""
    aten = torch.ops.aten
    shape, value = tuple(saved.meta["val"].shape), saved.meta["val"]
    copy = (aten.clone.default, None)
    swap = _find_swap(saved)
    if swap in swaps and swap is not None and value.is_contiguous():
        t, b = swap
        merged = shape[0] == t * b
        rest = list(shape[1:] if merged else shape[2:])
        order = [1, 0, *range(2, 2 + len(rest))]
        turn = (aten.permute.default, order)
        there: _Steps = [*([(aten.view.default, [t, b, *rest])] if merged else []), turn, copy]
        return there, [turn, copy, *([(aten.view.default, list(shape))] if merged else [])]
    if _is_attention(saved) and _find_tokens(saved) in swaps:
        back: _Steps = [(aten.permute.default, [1, 0, 2, 3]), copy, (aten.permute.default, [1, 2, 0, 3])]
        return [(aten.permute.default, [0, 2, 1, 3]), copy], back
    return None


def _find_swap(node: object) -> tuple[int, int] | None:
    """The tokens and sequences (t, b) of rows that lie so since (b, t, c) was transposed; None for other rows."""
    name, value = _name(node), _value(node)
    if value is None or not all(isinstance(extent, int) for extent in value.shape):
        return None
    shape = tuple(value.shape)
    source = _value(_operand(node, 0))
    if name in ("transpose", "permute") and len(shape) == 3:
        swapped = source is not None and source.is_contiguous() and _find_swap(_operand(node, 0)) is None
        turned = swapped and source is not None and value.stride() == source.transpose(0, 1).stride()
        return (shape[0], shape[1]) if turned and min(shape[:2]) > 1 else None
    if name not in _SAME_ROWS:
        return None
    swap = _find_swap(_operand(node, _SAME_ROWS[name]))
    rows = swap is not None and (shape[:2] == swap or shape[0] == swap[0] * swap[1])
    if name == "add" and rows:
        other = _value(_operand(node, 1))
        rows = other is not None and other.dim() == 1
    return swap if rows else None


def _is_attention(node: fx.Node) -> bool:
    """Whether a node is the result of attention, of shape ``(b, heads, t, c)``."""
    return node.target is operator.getitem and node.args[1] == 0 and _name(node.args[0]) == _ATTENTION


def _find_tokens(attention: fx.Node) -> tuple[int, int] | None:
    """The tokens and sequences (t, b) of a result of attention if the tokens are outermost in memory."""
    value = _value(attention)
    if value is None or not value.permute(2, 0, 1, 3).is_contiguous():
        return None
    return value.shape[2], value.shape[0]


def _apply(graph: fx.Graph, tensor: fx.Node, steps: _Steps, name: str) -> fx.Node:
    """A tensor after some steps. The last one has the name."""
    for place, (target, argument) in enumerate(steps):
        called: Callable[..., torch.Tensor] = target  # type: ignore[assignment]
        arguments: Sequence[object] = () if argument is None else (argument,)
        options = {"memory_format": torch.contiguous_format} if argument is None else {}
        last = {"name": name} if place == len(steps) - 1 else {}
        node = graph.create_node("call_function", target, (tensor, *arguments), options, **last)
        node.meta["val"] = called(tensor.meta["val"], *arguments, **options)
        tensor = node
    return tensor


def _operand(node: object, place: int) -> object:
    arguments = getattr(node, "args", ())
    return arguments[place] if place < len(arguments) else None


def _value(node: object) -> torch.Tensor | None:
    value = getattr(node, "meta", {}).get("val")
    return value if isinstance(value, torch.Tensor) else None


def _name(node: object) -> str:
    """The name of an operator of PyTorch without its overload; empty for anything else."""
    return str(getattr(getattr(node, "target", None), "overloadpacket", "")).removeprefix("aten.")
