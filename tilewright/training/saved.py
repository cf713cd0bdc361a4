"""Activations that the forward pass saves for the backward pass stay in the blocked layout in which kernels write them.

    forward part --> (n, channels, h, w) --> PyTorch --> (n, channels, h, w) --> backward part
    -->
    forward part --> (n, channels / block, h, w, block) --> PyTorch --> the same --> backward part

PyTorch keeps these tensors and does not look at them. A part that runs in PyTorch returns the plain tensor, and takes
either: the number of dimensions tells them apart. So each part may change to our kernels at any time.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from tilewright.frontend.torch.part import Layout
from tilewright.training.support import is_supported
from tilewright.training.views import WHOLE

if TYPE_CHECKING:
    from torch import fx

__all__ = ["accept_blocks", "find_kept", "find_layouts", "mark_saved", "show_plain", "to_blocks", "to_plain"]

#: The key of a node's ``meta`` with the name under which its tensor is saved, and the channels in a block.
SAVED = "tilewright_saved"
#: The float32 numbers in a vector register, by PyTorch's name of what the processor can.
_LANES = {"AVX512": 16, "AVX2": 8}
#: Bytes from which a tensor is worth it.
_LEAST = 1 << 14


def mark_saved(forward: fx.GraphModule, backward: fx.GraphModule, outputs: int) -> None:
    """Mark the activations that may stay in blocks, in both graphs of a step.

    Args:
        forward: gives the results of the model, then what it saves.
        backward: takes what is saved by the same names.
        outputs: how many results the model has.
    """
    results = _output(forward).args[0]
    given = set(results[:outputs])
    takers = {node.name: node for node in backward.graph.nodes if node.op == "placeholder"}
    lanes = _find_lanes()
    for node in results[outputs:]:
        taker = takers.get(getattr(node, "name", ""))
        if (
            taker is None
            or node in given
            or WHOLE in node.meta
            or not is_supported(node)
            or not all(map(is_supported, taker.users))
        ):
            continue
        block = _find_block(node.meta.get("val"), lanes)
        if block:
            node.meta[SAVED] = taker.meta[SAVED] = (taker.name, block)


def find_kept(whole: fx.GraphModule, names: Collection[str]) -> frozenset[str]:
    """The names of tensors that stay in blocks: parts give them, and only parts read them, or the backward pass.

    Images that one part of this pass gives to another, and that are not saved, are marked here.

    Args:
        whole: a pass, whose parts are modules.
        names: of the parts.
    """
    kept = set()
    output = _output(whole)
    calls = [node for node in whole.graph.nodes if node.op == "call_module" and node.target in names]
    for call in calls:
        results = _output(whole.get_submodule(str(call.target))).args[0]
        for field in call.users:
            if field.target is not operator.getitem or not set(field.users) <= {output, *calls}:
                continue
            result = results[field.args[1]]
            if output not in field.users:
                _mark_between(whole, field, result)
            if SAVED in result.meta:
                kept.add(result.meta[SAVED][0])
    return frozenset(kept)


def _mark_between(whole: fx.GraphModule, field: fx.Node, result: fx.Node) -> None:
    """Mark an image that one part gives to others.

    Args:
        whole: the pass.
        field: the image there.
        result: the same in the part that gives it.
    """
    block = _find_block(result.meta.get("val"), _find_lanes())
    if not block or SAVED in result.meta or WHOLE in result.meta:
        return
    result.meta[SAVED] = (f"between {field.name}", block)
    for call in field.users:
        takes = [node for node in whole.get_submodule(str(call.target)).graph.nodes if node.op == "placeholder"]
        for node, given in zip(takes, call.args, strict=True):
            if given is field:
                node.meta[SAVED] = result.meta[SAVED]


def show_plain(whole: fx.GraphModule, names: Collection[str]) -> None:
    """Let all of the backward pass but its parts see saved activations as plain tensors.

    Args:
        whole: the backward pass, whose parts are modules.
        names: of the parts.
    """
    for node in [n for n in whole.graph.nodes if n.op == "placeholder" and SAVED in n.meta]:
        others = [user for user in node.users if user.op != "call_module" or user.target not in names]
        if others:
            with whole.graph.inserting_before(others[0]):
                plain = whole.graph.call_function(to_plain, (node, tuple(node.meta["val"].shape)))
            for user in others:
                user.replace_input_with(node, plain)
    whole.recompile()


def find_layouts(module: fx.GraphModule, kept: Collection[str]) -> tuple[tuple[Layout, ...], tuple[Layout, ...]]:
    """The layouts of what the kernels of a part take and give.

    Args:
        module: the part.
        kept: the names of saved activations that stay in blocks.
    """

    def find(node: fx.Node) -> Layout:
        name, block = node.meta.get(SAVED, ("", 0))
        layout = Layout.of(node.meta["val"])
        return replace(layout, block=block) if name in kept else layout.dense

    inputs = tuple(find(node) for node in module.graph.nodes if node.op == "placeholder")
    return inputs, tuple(find(node) for node in _output(module).args[0])


def accept_blocks(module: fx.GraphModule, inputs: Sequence[Layout]) -> fx.GraphModule:
    """A part that takes images in blocks, too. Each is a plain tensor from its first use to its last, and no longer.

    Args:
        module: the part.
        inputs: the layouts of what its kernels take.
    """
    from torch import fx

    if not any(layout.block for layout in inputs):
        return module
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node, layout in zip([n for n in graph.nodes if n.op == "placeholder"], inputs, strict=True):
        if layout.block and node.users:
            users = list(node.users)
            with graph.inserting_before(min(users, key=order.__getitem__)):
                plain = graph.call_function(to_plain, (node, layout.shape))
            for user in users:
                user.replace_input_with(node, plain)
    return fx.GraphModule(module, graph)


def to_plain(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """An image in blocks as a tensor of ``shape`` (n, channels, h, w). A tensor of that shape is returned as it is."""
    if tensor.dim() == len(shape):
        return tensor
    return tensor.permute(0, 1, 4, 2, 3).reshape(*shape).contiguous()  # a single block would be a view


def to_blocks(tensor: torch.Tensor, block: int) -> torch.Tensor:
    """An image (n, channels, h, w) in blocks (n, channels / block, h, w, block)."""
    n, channels, h, w = tensor.shape
    return tensor.reshape(n, channels // block, block, h, w).permute(0, 1, 3, 4, 2).contiguous()


def _find_lanes() -> int:
    """The float32 numbers in a vector register of this processor."""
    return _LANES.get(torch.backends.cpu.get_cpu_capability(), 4)


def _find_block(value: torch.Tensor | None, lanes: int) -> int:
    """The channels in a block of an image; 0 for what is no image, or has few numbers."""
    if value is None or value.dim() != 4 or value.dtype != torch.float32 or 4 * value.numel() < _LEAST:
        return 0
    channels, pixels = int(value.shape[1]), int(value.shape[2] * value.shape[3])
    block = max(d for d in range(1, lanes + 1) if channels % d == 0)
    return block if pixels > 1 and block >= max(2, lanes // 2) else 0


def _output(module: fx.GraphModule) -> fx.Node:
    return next(iter(reversed(module.graph.nodes)))
