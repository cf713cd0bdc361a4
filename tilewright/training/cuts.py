"""Cuts large parts into pieces. They get their kernels one after the other, and run in them as soon as these are ready.

    forward:  a --> b --> c            a, b, c --> backward:  c' --> b' --> a'
    order in which they get kernels:   a, a', b, b', c, c'

The first layers of a convolutional network work on the largest images: they take most of a step, but no more time to
compile than others. So the first pieces save most of the time. A backward piece reads what its forward piece saves in
blocked layouts, so both begin to run in their kernels at the same time.

A pass is cut where a single tensor crosses over. It stays in the blocked layout in which kernels write it, so a cut
costs no conversion. A network that has few different kernels is not cut: its first piece would need nearly all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from tilewright.training.support import is_heavy

if TYPE_CHECKING:
    from torch import fx

__all__ = ["Cuts"]

#: The least number of different convolutions and products in a piece, and the most pieces of a pass. (Chosen, not
#: measured.)
_LEAST_KERNELS, _MOST_PIECES = 12, 3
#: How far a cut may be from where it would make all pieces equal, as a share of a piece.
_SLACK = 0.5


class Cuts:
    """The cuts of one step: those of its forward pass, which its backward pass follows."""

    def __init__(self) -> None:
        #: By the name of a value of the forward pass, the number of the piece that gives it. Values that a later piece
        #: reads are left out.
        self._pieces: dict[str, int] = {}
        self._count = 0

    def cut(self, backward: bool, nodes: Collection[fx.Node]) -> list[list[fx.Node]]:
        """Cut a part of a pass. Returns the nodes of each piece, in the order of the graph.

        Args:
            backward: whether it is one of the backward pass, whose forward pass was cut before.
            nodes: of the part.
        """
        order = {node: place for place, node in enumerate(next(iter(nodes)).graph.nodes)}
        sequence = sorted(nodes, key=order.__getitem__)
        return self._follow(sequence) if backward else self._divide(sequence)

    def _divide(self, nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
        """The pieces of a part of the forward pass."""
        places = _find_cuts(nodes)
        bounds = [0, *places, len(nodes)]
        last = _find_last(nodes)
        pieces = [list(nodes[begin:end]) for begin, end in itertools.pairwise(bounds)]
        for end, piece in zip(bounds[1:], pieces, strict=True):
            self._pieces |= {node.name: self._count for node in piece if last[node] < end}
            self._count += 1
        return pieces

    def _follow(self, nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
        """The pieces of a backward part. A node belongs to the earliest forward piece of which it needs a value."""
        numbers: dict[fx.Node, int] = {}
        for node in nodes:
            read = [numbers.get(x, self._pieces.get(x.name, self._count)) for x in node.all_input_nodes]
            numbers[node] = min([self._count - 1, *read])
        pieces: list[list[fx.Node]] = []
        for number in sorted(set(numbers.values()), reverse=True):
            piece = [node for node in nodes if numbers[node] == number]
            if pieces and min(sum(map(is_heavy, each)) for each in (piece, pieces[-1])) < _LEAST_KERNELS // 2:
                pieces[-1] += piece  # one of both is not worth a part of its own
            else:
                pieces.append(piece)
        return pieces


def _find_cuts(nodes: Sequence[fx.Node]) -> list[int]:
    """The places of the first nodes of all pieces but the first."""
    counts, known = list[int](), set[object]()
    for node in nodes:
        if is_heavy(node):
            known.add(_describe(node))
        counts.append(len(known))  # of different kernels up to this node
    pieces = min(_MOST_PIECES, len(known) // _LEAST_KERNELS)
    size = len(known) / max(1, pieces)
    lone = _find_lone(nodes) if pieces > 1 else ()
    places = list[int]()
    for number in range(1, pieces):
        near = [place for place in lone if abs(counts[place - 1] - number * size) <= _SLACK * size]
        near = [place for place in near if not places or place > places[-1]]
        if near:
            places.append(min(near, key=lambda place: abs(counts[place - 1] - number * size)))
    return places


def _describe(node: fx.Node) -> object:
    """A description of a convolution or product: those that need the same kernels have the same."""
    shapes = tuple(tuple(getattr(x.meta.get("val"), "shape", ())) for x in node.all_input_nodes)
    return (str(node.target), shapes, str([a for a in node.args if isinstance(a, list | tuple | int | bool)]))


def _find_lone(nodes: Sequence[fx.Node]) -> list[int]:
    """The places of nodes before which one tensor of the nodes before them is all that later ones read."""
    last = _find_last(nodes)
    ending: dict[int, list[fx.Node]] = {}
    live, found = set["fx.Node"](), list[int]()
    for place, node in enumerate(nodes):
        for done in ending.pop(place - 1, ()):
            live.discard(done)
        if len(live) == 1 and isinstance(next(iter(live)).meta.get("val"), torch.Tensor):
            found.append(place)
        if last[node] > place:
            live.add(node)
            ending.setdefault(last[node], []).append(node)
    return found


def _find_last(nodes: Sequence[fx.Node]) -> Mapping[fx.Node, int]:
    """The place of the last node that reads each node; -1: none does."""
    order = {node: place for place, node in enumerate(nodes)}
    return {node: max((order.get(user, -1) for user in node.users), default=-1) for node in nodes}
