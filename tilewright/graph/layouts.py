"""Chooses for all images of a network at once whether their channels lie in blocks, or last.

The cheapest choice is a minimum cut. Images are nodes; the cut separates images in blocks from images with channels
last. An edge between two images costs the conversion that is needed where they lie differently:

    blocks --- convolution --- add --- depthwise --- (read as rows of channels) --- last

Convolutions read either layout and write either, so no edge joins their operand to their result. Those that Winograd's
algorithm may compute are bound to blocks. Depthwise convolutions, pooling and element-wise operators write what they
read. What reads or writes rows of channels, such as a layer norm between two transpositions, is bound to channels last.

NeoCPU (Liu et al., ATC 2019) chooses among many block lengths by dynamic programming and PBQP. With two layouts the
problem is a cut, which is solved exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.graph.value import shape_of

if TYPE_CHECKING:
    from tvm import relax

__all__ = ["find_last"]

#: The two ends of the graph that is cut.
_BLOCKS, _LAST = 0, 1
#: Bytes of a unit of cost, and the most units of an edge, so that flows fit 32 bits.
_UNIT, _MOST = 64, 1 << 29
#: What a convolution's result costs more with its channels last, as a share of its bytes: each block is a store of its
#: own in every pixel. (A choice, below the cost of any conversion. It decides where nothing else does.)
_SCATTERED = 1 / 8
#: What Winograd's algorithm saves on a 3x3 convolution, in bytes for each operation: half of the operations, of which
#: a machine does seven in the time of a byte (:mod:`tilewright.graph.convolution`).
_WINOGRAD = 1 / 14
#: Operators whose result lies as their operands do.
_ALIKE = frozenset({"nn.max_pool2d", "nn.avg_pool2d", "image.resize2d", "concat"})


@dataclass
class _Cut:
    """The graph that is cut.

    Attributes:
        alike: operators of which the operands and the result lie alike, besides those of ``_ALIKE``.
        nodes: the node of each image.
        edges: the cost of each pair of nodes that lie differently, in units.
        flat: images whose pixels are one dimension, by the variable that holds them so.
    """

    alike: frozenset[str]
    nodes: dict[relax.Expr, int] = field(default_factory=dict)
    edges: dict[tuple[int, int], int] = field(default_factory=dict)
    flat: dict[relax.Expr, relax.Expr] = field(default_factory=dict)

    def join(self, one: int, two: int, size: float) -> None:
        """Two nodes that cost ``size`` bytes where they lie differently."""
        cost = math.ceil(size / _UNIT)
        for pair in ((one, two), (two, one)):
            self.edges[pair] = min(self.edges.get(pair, 0) + cost, _MOST)

    def see(self, var: relax.Var, call: relax.Call) -> None:
        """Add an operator's result, and what it costs to read its operands."""
        from tvm import relax

        name = call.op.name.removeprefix("relax.")
        operands = [o for a in call.args for o in (a.fields if isinstance(a, relax.Tuple) else [a])]
        images = [a for a in operands if a in self.nodes]
        if name == "nn.conv2d" and _is_image(var):
            self._see_convolution(var, call)
        elif name == "permute_dims" and (_is_image(var) or call.args[0] in self.flat or call.args[0] in self.nodes):
            self._see_permutation(var, call)
        elif (
            name == "reshape" and images and shape_of(call)[:2] == shape_of(images[0])[:2] and len(shape_of(call)) == 3
        ):
            self.flat[var] = images[0]
        elif _is_image(var) and images and name in self.alike | _ALIKE:
            node = self._add(var)
            for image in images:
                self.join(self.nodes[image], node, _bytes(image))
            if name == "concat":
                self.join(_BLOCKS, node, _bytes(var))  # in blocks the operands are written in place

    def _see_convolution(self, var: relax.Var, call: relax.Call) -> None:
        data, weight = call.args
        groups, read = int(call.attrs.groups), self.nodes.get(data)
        if groups > 1:
            # One by groups that is not depthwise decides by itself (:mod:`tilewright.graph.pixel_convolutions`).
            if groups == shape_of(data)[1] == shape_of(weight)[0]:
                node = self._add(var)
                self.join(node if read is None else read, node, _bytes(data))
            return
        node = self._add(var)
        self.join(_BLOCKS, node, _SCATTERED * _bytes(var))
        _, depth, *kernel = shape_of(weight)
        if kernel == [3, 3] and [int(s) for s in call.attrs.strides] == [1, 1]:
            saved = _WINOGRAD * 2.0 * math.prod(shape_of(var)) * depth * 9
            self.join(_BLOCKS, node, saved / 2)
            if read is not None:
                self.join(_BLOCKS, read, saved / 2)

    def _see_permutation(self, var: relax.Var, call: relax.Call) -> None:
        source, rank = call.args[0], len(shape_of(call))
        axes = call.attrs.axes
        order = [int(a) % rank for a in axes] if axes is not None else [*reversed(range(rank))]
        image = self.flat.get(source) if order == [0, 2, 1] else source if order == [0, 2, 3, 1] else None
        if image in self.nodes:
            self.join(self.nodes[image], _LAST, _bytes(image))
        elif order == [0, 3, 1, 2] and _is_image(var):
            self.join(self._add(var), _LAST, _bytes(var))

    def _add(self, var: relax.Var) -> int:
        return self.nodes.setdefault(var, len(self.nodes) + 2)

    def solve(self) -> set[relax.Expr]:
        """The images with channels last in the cheapest choice; of several such choices, in that with the fewest."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        if not any(_LAST in pair for pair in self.edges):
            return set()
        pairs = list(self.edges)
        size = len(self.nodes) + 2
        columns = [[pair[i] for pair in pairs] for i in range(2)]
        costs = csr_array(([self.edges[pair] for pair in pairs], columns), shape=(size, size), dtype="int32")
        left = costs - maximum_flow(costs, _LAST, _BLOCKS).flow
        left.eliminate_zeros()
        last = set(breadth_first_order(left, _LAST, return_predecessors=False).tolist())
        return {image for image, node in self.nodes.items() if node in last}


def _is_image(tensor: relax.Expr) -> bool:
    """Whether a tensor has several channels and several pixels, of float32."""
    from tvm import relax

    kind = tensor.ty
    if not isinstance(kind, relax.TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
        return False
    shape = [getattr(extent, "value", 0) for extent in kind.shape.values]  # 0: known only when the network runs
    return str(kind.dtype) == "float32" and len(shape) == 4 and 0 not in shape and shape[1] > 1 < shape[2] * shape[3]


def _bytes(tensor: relax.Expr) -> float:
    return 4.0 * math.prod(shape_of(tensor))


def find_last(main: relax.Function, alike: Iterable[str]) -> frozenset[relax.Expr]:
    """The images of a network that are to have their channels last: variables, and the calls that compute them.

    Args:
        main: the network.
        alike: the element-wise operators, without ``relax.``.
    """
    from tvm import ir, relax

    cut = _Cut(frozenset(alike))
    calls: dict[relax.Expr, relax.Call] = {}
    for block in main.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and isinstance(call.op, ir.Op):
                calls[binding.var] = call
                cut.see(binding.var, call)
    last = cut.solve()
    return frozenset(last | {calls[image] for image in last})
