"""Imports a part of a training step: a graph of PyTorch's operators whose weights are inputs.

The part of a step arrives as a module and the layout of its inputs. Inputs and results that lie in another order than
that of their dimensions, such as images with channels last, become transposed tensors that lie in order.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import TilewrightError, UnsupportedOperatorError
from tilewright.frontend.torch.folding import fold_constants
from tilewright.frontend.torch.gradients import training_decompositions
from tilewright.frontend.torch.graph import TorchGraph, shape_of
from tilewright.frontend.torch.importer import Imported, import_graph
from tilewright.frontend.torch.rewriting import (
    drop_identities,
    join_deviations,
    join_selections,
    order_parts,
    repeat_late,
    shape_norms,
)

if TYPE_CHECKING:
    import torch
    from torch import fx

__all__ = ["ImportedPart", "Layout", "import_part"]

#: Operators that move or repeat the elements of a weight.
_MOVES = "view _unsafe_view reshape permute expand unsqueeze squeeze clone alias detach flip"
#: The order of (n, channels / block, block, rows, columns) in blocks, and that of blocks in these dimensions.
_BLOCKED, _UNBLOCKED = (0, 1, 3, 4, 2), (0, 1, 4, 2, 3)
#: The places of the operands of products that are packed as weights are.
_WEIGHTS = {"convolution": 1, "convolution_backward": 2, "mm": 1, "addmm": 2}


@dataclass(frozen=True)
class Layout:
    """How a tensor of PyTorch lies in memory.

    Attributes:
        shape: its extents.
        strides: the distance between neighbours along each dimension, in elements.
        dtype: PyTorch's name of its dtype, such as ``float32``.
        block: the channels in a block of an image that lies as (n, channels / block, rows, columns, block); 0: it lies
            as its strides say.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    block: int = 0

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Layout:
        """The layout of a tensor, or of a stand-in for one."""
        shape, strides = (tuple(int(n) for n in numbers) for numbers in (tensor.shape, tensor.stride()))
        return cls(shape, strides, str(tensor.dtype).removeprefix("torch."))

    @property
    def blocks(self) -> tuple[int, ...]:
        """The extents of the tensor in memory that holds an image in blocks."""
        n, channels, h, w = self.shape
        return (n, channels // self.block, h, w, self.block)

    @property
    def order(self) -> tuple[int, ...] | None:
        """The dimensions from the outermost in memory to the innermost; None if elements do not lie side by side."""
        order = sorted(range(len(self.shape)), key=lambda d: (-self.strides[d], self.shape[d] == 1, d))
        step = 1
        for dim in reversed(order):
            if self.shape[dim] != 1 and self.strides[dim] != step:
                return None
            step *= self.shape[dim]
        return tuple(order)

    @property
    def dense(self) -> Layout:
        """Itself if its elements lie side by side; otherwise the same tensor in the order of its dimensions."""
        if self.order is not None and 0 not in self.shape:
            return self
        strides = [1]
        for extent in reversed(self.shape[1:]):
            strides.append(strides[-1] * max(1, extent))
        return Layout(self.shape, tuple(reversed(strides))[: len(self.shape)], self.dtype)


@dataclass(frozen=True)
class ImportedPart:
    """A part that was imported.

    Attributes:
        imported: the module, whose inputs and results lie in order.
        varying: the names of the inputs that are weights.
    """

    imported: Imported
    varying: frozenset[str]


def import_part(module: fx.GraphModule, inputs: Sequence[Layout], outputs: Sequence[Layout]) -> ImportedPart:
    """Import a part of a training step.

    Args:
        module: takes tensors, and gives a tuple of tensors.
        inputs: dense layouts of what it takes.
        outputs: dense layouts of what it gives.

    Raises:
        UnsupportedOperatorError: an operator cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about its own internals
            graph = _trace(module, inputs)
            drop_identities(graph)
            fold_constants(graph)
            shape_norms(graph)
            join_selections(graph)
            order_parts(graph)
            join_deviations(graph)
            repeat_late(graph)
            _order_inputs(graph, inputs)
            _order_outputs(graph, outputs)
            graph.drop_dead()
            return ImportedPart(import_graph(graph), _find_weights(graph))
    except (TilewrightError, MemoryError):
        raise
    except Exception as exc:  # PyTorch's decompositions raise errors of all classes
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise UnsupportedOperatorError(f"a part of a training step cannot be imported: {line[:200]}") from exc


def _trace(module: fx.GraphModule, inputs: Sequence[Layout]) -> TorchGraph:
    """The graph of the part in operators that converters serve."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    # The module may hold numbers as tensors of its own, which are no stand-ins.
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        given = [torch.empty_strided(i.shape, i.strides, dtype=getattr(torch, i.dtype)) for i in inputs]
        traced = make_fx(module, decomposition_table=training_decompositions())(*given)
    graph = TorchGraph(traced.graph, [node for node in traced.graph.nodes if node.op == "placeholder"], {})
    for node in [node for node in traced.graph.nodes if node.op == "get_attr"]:
        constant = graph.add_weight(node.name, getattr(traced, str(node.target)).detach())
        graph.replace(node, constant)
    output = graph.output
    results = output.args[0]
    output.args = (tuple(results) if isinstance(results, list | tuple) else (results,),)
    return graph


def _order_inputs(graph: TorchGraph, inputs: Sequence[Layout]) -> None:
    """Input x --> permute(x'), where the elements of x' lie in the order of its dimensions; or x --> view(permute(x')).

    The latter is an image in blocks.
    """
    import torch

    for place, (node, layout) in enumerate(zip(list(graph.inputs), inputs, strict=True)):
        order = _UNBLOCKED if layout.block else layout.order
        if order is None or order == tuple(range(len(order))):
            continue
        shape = layout.blocks if layout.block else [layout.shape[dim] for dim in order]
        with graph.graph.inserting_before(node):
            ordered = graph.graph.placeholder(f"{node.name}_ordered")
        ordered.meta["val"] = torch.empty(shape, dtype=getattr(torch, layout.dtype), device="meta")
        first = next(n for n in graph.graph.nodes if n.op != "placeholder")
        back = order if layout.block else _invert(order)
        turned = graph.insert(first, torch.ops.aten.permute.default, ordered, list(back))
        if layout.block:
            turned = graph.insert(first, torch.ops.aten.reshape.default, turned, list(layout.shape))
        graph.replace(node, turned)
        graph.inputs[place] = ordered


def _order_outputs(graph: TorchGraph, outputs: Sequence[Layout]) -> None:
    """A result --> permute(result), whose elements lie in memory as those of the result should."""
    import torch

    output = graph.output
    results = list(output.args[0])
    for place, (node, layout) in enumerate(zip(results, outputs, strict=True)):
        order = layout.order
        if layout.block:
            n, channels, h, w = layout.shape
            split = [n, channels // layout.block, layout.block, h, w]
            parts = graph.insert(output, torch.ops.aten.reshape.default, node, split)
            results[place] = graph.insert(output, torch.ops.aten.permute.default, parts, list(_BLOCKED))
        elif order is not None and order != tuple(range(len(order))):
            results[place] = graph.insert(output, torch.ops.aten.permute.default, node, list(order))
    output.args = (tuple(results),)


def _invert(order: Sequence[int]) -> list[int]:
    return [order.index(dim) for dim in range(len(order))]


def _find_weights(graph: TorchGraph) -> frozenset[str]:
    """The inputs that products read as their weights, by way of moves alone; and vectors, such as biases."""
    found = {node.name for node in graph.inputs if len(shape_of(node)) < 2}
    for node in graph.calls:
        name = _name_of(node)
        if name not in _WEIGHTS or _sums_over_tokens(node):
            continue
        source = node.args[_WEIGHTS[name]]
        while source.op == "call_function" and _moves(source):
            source = source.args[0]
        if source in graph.inputs:
            found.add(source.name)
    return frozenset(found)


def _sums_over_tokens(node: fx.Node) -> bool:
    """Whether a product is the gradient of a weight: that of a transposed matrix and one that is saved."""
    left = node.args[0]
    return _name_of(node) == "mm" and _name_of(left) in ("permute", "t", "transpose")


def _moves(node: fx.Node) -> bool:
    return node.target is not operator.getitem and _name_of(node) in _MOVES.split()


def _name_of(node: fx.Node) -> str:
    """The name of an operator of PyTorch without its overload; empty for anything else."""
    return str(getattr(node.target, "overloadpacket", "")).removeprefix("aten.")
