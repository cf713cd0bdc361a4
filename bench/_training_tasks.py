"""What each kernel of a training step is for: which convolution or product, and which of its three kernels.

A part of a step says by its graph which of its inputs are weights, and which of its results are their gradients. So the
calls of its plan are followed from both ends:

    weight -> packed -> transformed -> products -> inverse      forward, or the gradient of the data
    data -> transformed ----------------^
    sums over pixels -> gathered -> transposed -> result        the gradient of the weight
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.executable.plan import Plan
from tilewright.frontend.torch.part import Layout
from tilewright.task import Task

if TYPE_CHECKING:
    from torch import fx

__all__ = ["DATA", "FORWARD", "KINDS", "WEIGHTS", "Layer", "Purpose", "find_layers", "find_purposes"]

#: The kinds of kernels.
FORWARD, DATA, WEIGHTS = "convolution", "gradient of data", "gradient of weights"
PRODUCT, NORM, ELEMENTWISE, LAYOUT, OTHER = "product", "norm", "element-wise", "layout", "other"
KINDS = (FORWARD, DATA, WEIGHTS, PRODUCT, NORM, ELEMENTWISE, LAYOUT, OTHER)
#: Operators of PyTorch that move or repeat the elements of a tensor.
_MOVES = "view _unsafe_view reshape permute t transpose expand unsqueeze squeeze clone alias detach"
#: The places of the operands of products: data, weight.
_FORWARD = {"convolution": (0, 1), "mm": (0, 1), "addmm": (1, 2)}
#: Words in the names of kernels of norms, of those that compute nothing, and of what is neither.
_NORM_WORDS = re.compile(r"statistics|norm|moments|rsqrt|deviation")
_LAYOUT_WORDS = {"transpose", "strided", "slice", "flip", "reshape", "fused", "concatenate", "broadcast", "to", "split"}
_OTHER_WORDS = re.compile(r"pool|softmax|sum|mean|max|take|embedding|cumsum|scatter|gather")


@dataclass(frozen=True)
class Layer:
    """A convolution, or a product with a weight.

    Attributes:
        name: such as ``3x3/2 64->128 56x56``; the pixels are those of the data.
        flop: floating-point operations of each of its kernels, if computed directly.
        convolution: whether it is one.
    """

    name: str
    flop: float
    convolution: bool


@dataclass(frozen=True)
class Purpose:
    """What a call of a kernel is for.

    Attributes:
        kind: one of :data:`KINDS`.
        layer: the layer that it is a part of; None: it is a part of none.
    """

    kind: str
    layer: Layer | None = None


@dataclass(frozen=True)
class Layers:
    """The layers of a part.

    Attributes:
        read: by the place of an input, the layer whose weight it is.
        written: by the place of a result, the layer whose weight's gradient it is.
    """

    read: Mapping[int, Layer]
    written: Mapping[int, Layer]


def find_layers(module: fx.GraphModule, inputs: Sequence[Layout]) -> Layers:
    """The layers of a part of a step.

    Args:
        module: the part's graph of PyTorch's operators. It may be changed.
        inputs: the layouts of what it takes.
    """
    _note_shapes(module, inputs)
    given = {node: place for place, node in enumerate(n for n in module.graph.nodes if n.op == "placeholder")}
    results = next(iter(reversed(module.graph.nodes))).args[0]
    places = {_follow(node): place for place, node in enumerate(results) if hasattr(node, "op")}
    read: dict[int, Layer] = {}
    written: dict[int, Layer] = {}
    for node in module.graph.nodes:
        name = _name_of(node)
        if name in _FORWARD:
            data, weight = (_follow(node.args[place]) for place in _FORWARD[name])
            layer = _describe(node, data, weight, node) if name == "convolution" else _describe_product(node)
            if name == "mm" and _is_turned(node.args[0]):
                if node in places:  # the gradient of a weight, by a transposed matrix
                    written[places[node]] = layer
            elif weight in given:
                read[given[weight]] = layer
        elif name == "convolution_backward":
            gradient, data, weight = (_follow(argument) for argument in node.args[:3])
            layer = _describe(node, data, weight, gradient)
            if weight in given:
                read[given[weight]] = layer
            for user in node.users:
                if user.target is operator.getitem and user.args[1] == 1 and user in places:
                    written[places[user]] = layer
    return Layers(read, written)


def find_purposes(plan: Plan, tasks: Sequence[Task | None], layers: Layers, backward: bool) -> list[Purpose]:
    """What each call of a plan is for.

    Args:
        plan: of a part.
        tasks: of each call; None: a copy.
        layers: of the part.
        backward: whether the part belongs to the backward pass.
    """
    found = _Following(plan, tasks, layers, DATA if backward else FORWARD).follow()
    return [
        Purpose(_classify(task)) if purpose is None else purpose for purpose, task in zip(found, tasks, strict=True)
    ]


class _Following:
    """Follows weights to what reads them, and gradients of weights to what computes them.

    Tensors share memory, so a value is known by its place and by the call that wrote it last.
    """

    def __init__(self, plan: Plan, tasks: Sequence[Task | None], layers: Layers, kind: str) -> None:
        self._plan, self._tasks, self._kind = plan, tasks, kind
        self._found: list[Purpose | None] = [None] * len(plan.calls)
        self._writer: dict[tuple[str, int], int] = {}
        #: By call, the calls that wrote what it reads.
        self._sources: list[list[int]] = []
        #: What holds nothing but a layer's weight, and what holds products of Winograd's algorithm.
        self._weights = {self._place(plan.inputs[i]): layer for i, layer in layers.read.items()}
        self._products: dict[tuple[str, int], Layer] = {}
        self._written = layers.written

    def follow(self) -> list[Purpose | None]:
        """The purposes of the calls that belong to a layer."""
        for number in range(len(self._plan.calls)):
            self._read(number)
        for result, layer in self._written.items():
            last = self._writer.get(self._place(self._plan.outputs[result]))
            if last is not None:
                self._trace(last, Purpose(WEIGHTS if layer.convolution else PRODUCT, layer))
        return self._found

    def _read(self, number: int) -> None:
        call = self._plan.calls[number]
        written = call.outputs or call.tensors[-1:]
        inputs = [self._place(t) for t in (call.tensors[1:] if not call.kernel else call.tensors[: -len(written)])]
        inputs = [place for place in inputs if place[0] != "weights"]
        self._sources.append([self._writer[place] for place in inputs if place in self._writer])
        layers = [self._weights[place] for place in inputs if place in self._weights]
        products = next((self._products[place] for place in inputs if place in self._products), None)
        places = [self._place(tensor) for tensor in written]
        if layers:
            self._found[number] = self._of_weights(layers[0])
            if len(layers) < len(inputs):
                self._note_data(number, layers[0])
        elif products is not None and _is(self._tasks[number], "inverse"):
            self._found[number] = self._of_weights(products)
        for place in places:
            self._writer[place] = number
            self._weights.pop(place, None)
            self._products.pop(place, None)
            if layers and len(layers) == len(inputs):
                self._weights[place] = layers[0]
            elif layers and _is(self._tasks[number], "products"):
                self._products[place] = layers[0]

    def _note_data(self, number: int, layer: Layer) -> None:
        """The transform of the data belongs to the first products that read it."""
        for source in self._sources[number]:
            if self._found[source] is None and _transforms(self._tasks[source]):
                self._found[source] = self._of_weights(layer)

    def _trace(self, number: int, purpose: Purpose) -> None:
        """A call that writes the gradient of a weight, and what it reads as far as that is made for it alone."""
        if self._found[number] is not None:
            return
        self._found[number] = purpose
        task = self._tasks[number]
        for source in self._sources[number]:
            if _is_layout(task) or _is(task, "gather"):
                self._trace(source, purpose)
            elif _is(task, "tile_sums") and self._found[source] is None and _transforms(self._tasks[source]):
                self._found[source] = purpose

    def _of_weights(self, layer: Layer) -> Purpose:
        return Purpose(self._kind if layer.convolution else PRODUCT, layer)

    def _place(self, tensor: int) -> tuple[str, int]:
        found = self._plan.tensors[tensor]
        return found.region, found.place


def _is(task: Task | None, word: str) -> bool:
    """Whether a task is, or begins with, one of Winograd's stages, such as ``inverse_threshold_gradient 36x..``."""
    return task is not None and re.match(rf"(fused_)?{word}\d*(_|\s|$)", task.name) is not None


def _transforms(task: Task | None) -> bool:
    """Whether a task transforms data or a gradient for Winograd's algorithm."""
    return _is(task, "winograd") or _is(task, "spread")


def _is_layout(task: Task | None) -> bool:
    """Whether a task moves elements, and computes nothing."""
    return task is None or set(_words(task)) <= _LAYOUT_WORDS


def _words(task: Task) -> list[str]:
    return re.sub(r"\d+", "", task.name.split()[0]).split("_")


def _classify(task: Task | None) -> str:
    """The kind of a call that is a part of no layer."""
    if _is_layout(task):
        return LAYOUT
    assert task is not None
    name = task.name.split()[0]
    if _NORM_WORDS.search(name):
        return NORM
    if (
        task.kind in ("contraction", "attention", "attention_gradient")
        or _is(task, "products")
        or "matmul" in name
        or "token_product" in name
    ):
        return PRODUCT
    return OTHER if _OTHER_WORDS.search(name) or task.kind == "rows" else ELEMENTWISE


def _name_of(node: fx.Node) -> str:
    """The name of an operator of PyTorch without its overload; empty for anything else."""
    return str(getattr(node.target, "overloadpacket", "")).removeprefix("aten.")


def _follow(node: fx.Node) -> fx.Node:
    """What a node is a view or a copy of."""
    while getattr(node, "op", "") == "call_function" and _name_of(node) in _MOVES.split():
        node = node.args[0]
    return node


def _note_shapes(module: fx.GraphModule, inputs: Sequence[Layout]) -> None:
    """Let each node know its shape. A module that was pickled knows none."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        tensors = [torch.empty_strided(i.shape, i.strides, dtype=getattr(torch, i.dtype)) for i in inputs]
        FakeTensorProp(module, mode).propagate_dont_convert_inputs(*tensors)


def _is_turned(node: fx.Node) -> bool:
    """Whether a matrix is another one's transposed."""
    return _name_of(node) in ("t", "transpose", "permute")


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(n) for n in node.meta["val"].shape)


def _describe(node: fx.Node, data: fx.Node, weight: fx.Node, result: fx.Node) -> Layer:
    """A convolution, by its operator or by that of its gradients."""
    backward = _name_of(node) == "convolution_backward"
    # After data, weight and bias, or after two gradients' operands, weight and the bias's shape.
    numbers = node.args[4 if backward else 3 :]
    stride, groups = list(numbers[0]), int(numbers[5])
    shape, kernel = _shape(data), _shape(weight)
    pixels = _shape(result)[2:] if backward else _shape(node)[2:]
    strided = "" if max(stride) == 1 else f"/{stride[0]}"
    grouped = "" if groups == 1 else ", depthwise" if groups == shape[1] else f", {groups} groups"
    name = f"{_times(kernel[2:])}{strided} {shape[1]}->{kernel[0]} {_times(shape[2:])}{grouped}"
    return Layer(name, 2.0 * shape[0] * math.prod(pixels) * math.prod(kernel), convolution=True)


def _describe_product(node: fx.Node) -> Layer:
    rows, columns = _shape(node)
    depth = _shape(node.args[-1])[0]
    return Layer(f"product {rows}x{depth} {depth}x{columns}", 2.0 * rows * columns * depth, convolution=False)


def _times(extents: Iterable[int]) -> str:
    return "x".join(map(str, extents))
