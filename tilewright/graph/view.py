"""Views: reshapes, transpositions and slices that are remembered instead of carried out.

A view cuts the dimensions of its base (a tensor in memory) into *atoms* and assigns the atoms to its own dimensions.
The head split (tokens, 3 * heads * depth) --> (heads, tokens, depth) of one of the three parts is
``base = ((t), (3, h, d))``, ``dims = ((h), (t), (d))``, ``fixed = {3: 0}``. Reading this view reads the base in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Atom", "View", "join_views", "refine"]


@dataclass(frozen=True, eq=False)
class Atom:
    """A part of a dimension, of ``extent`` indices."""

    extent: int


@dataclass(frozen=True)
class View:
    """How a tensor lies in its base.

    Attributes:
        base: the atoms of each dimension of the base, outermost first.
        dims: the atoms of each dimension of the view. Each atom of the base is in one of these or in ``fixed``.
        fixed: the atoms at which the view reads only one index, each with that index.
    """

    base: tuple[tuple[Atom, ...], ...]
    dims: tuple[tuple[Atom, ...], ...]
    fixed: tuple[tuple[Atom, int], ...] = ()

    @classmethod
    def of(cls, shape: Iterable[int]) -> View:
        """The view of a whole tensor in its own order."""
        dims = tuple((Atom(d),) for d in shape)
        return cls(dims, dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of the view's dimensions."""
        return tuple(extent(d) for d in self.dims)

    @property
    def base_shape(self) -> tuple[int, ...]:
        """The extents of the base's dimensions."""
        return tuple(extent(d) for d in self.base)

    @property
    def atoms(self) -> list[Atom]:
        """All atoms of the base with an extent above 1, in the order of memory."""
        return [a for dim in self.base for a in dim if a.extent > 1]

    @property
    def in_order(self) -> bool:
        """Whether the view is a reshape of the base."""
        return not self.fixed and [a for dim in self.dims for a in dim if a.extent > 1] == self.atoms

    @property
    def block(self) -> int:
        """The channels in a block if the base is an image in blocks (n, channels / block, h, w, block); otherwise 0."""
        if len(self.dims) != 4 or self.fixed:
            return 0
        n, channels, h, w = ([a for a in dim if a.extent > 1] for dim in self.dims)
        if not channels or not (h or w) or [*n, *channels[:-1], *h, *w, channels[-1]] != self.atoms:
            return 0
        return channels[-1].extent

    def permute(self, axes: Sequence[int]) -> View:
        """The view with its dimensions in the order ``axes``."""
        return View(self.base, tuple(self.dims[a] for a in axes), self.fixed)

    def reshape(self, shape: Sequence[int]) -> View | None:
        """The view in another shape; None if no cut of the atoms gives it (6 x 4 as 8 x 3, transposed)."""
        view = self
        queue = [a for dim in self.dims for a in dim if a.extent > 1]
        dims: list[tuple[Atom, ...]] = []
        for wanted in shape:
            dim: list[Atom] = []
            while wanted > 1:
                atom = queue.pop(0)
                if wanted % atom.extent == 0:
                    dim.append(atom)
                    wanted //= atom.extent
                elif atom.extent % wanted == 0:
                    parts = (Atom(wanted), Atom(atom.extent // wanted))
                    view = view.split(atom, parts)
                    dim.append(parts[0])
                    queue.insert(0, parts[1])
                    wanted = 1
                else:
                    return None
            dims.append(tuple(dim))
        return View(view.base, tuple(dims), view.fixed)

    def index(self, axis: int, position: int) -> View:
        """The view at index ``position`` of the dimension ``axis``, without that dimension."""
        fixed = list(self.fixed)
        for atom in reversed(self.dims[axis]):
            position, here = divmod(position, atom.extent)
            fixed.append((atom, here))
        return View(self.base, self.dims[:axis] + self.dims[axis + 1 :], tuple(fixed))

    def split(self, atom: Atom, parts: tuple[Atom, ...]) -> View:
        """The view with ``parts`` for ``atom``."""

        def swap(dims: tuple[tuple[Atom, ...], ...]) -> tuple[tuple[Atom, ...], ...]:
            return tuple(tuple(p for a in dim for p in (parts if a is atom else (a,))) for dim in dims)

        if any(a is atom for a, _ in self.fixed):
            raise ValueError("an atom that is fixed is no more cut")
        return View(swap(self.base), swap(self.dims), self.fixed)

    def merge(self) -> View:
        """The view with neighbours in both base and view merged into one atom, and one atom per base dimension."""
        order = self.atoms
        dims: list[tuple[Atom, ...]] = []
        new: dict[Atom, Atom | None] = {}  # None: part of the atom before it
        for dim in self.dims:
            merged: list[Atom] = []
            last: Atom | None = None
            for atom in dim:
                if atom.extent == 1:
                    continue
                if last is not None and order.index(atom) == order.index(last) + 1:
                    first = next(a for a, m in new.items() if m is merged[-1])
                    merged[-1] = Atom(merged[-1].extent * atom.extent)
                    new[first], new[atom] = merged[-1], None
                else:
                    merged.append(Atom(atom.extent))
                    new[atom] = merged[-1]
                last = atom
            dims.append(tuple(merged))
        fixed = tuple((a, i) for a, i in self.fixed if a.extent > 1)
        new |= {a: a for a, _ in fixed}
        kept = [new[a] for a in order]
        return View(tuple((a,) for a in kept if a is not None), tuple(dims), fixed)


def extent(dim: Iterable[Atom]) -> int:
    """The number of elements that the atoms of a dimension span."""
    return math.prod(a.extent for a in dim)


def join_views(views: Sequence[View], axis: int) -> View | None:
    """The view that views of one base are the parts of.

    ``((h), (), (d))`` at the indices 0, 1, 2 of an atom of extent 3  -->  ``((h), (3), (d))`` for ``axis`` 1

    Args:
        views: in the order of the parts.
        axis: the dimension along which they are joined.

    Returns:
        None if they are not all indices of one atom, each once and in order.
    """
    merged = [view.merge() for view in views]
    first = merged[0]
    if len(first.fixed) != 1 or first.fixed[0][0].extent != len(views) or first.dims[axis]:
        return None
    for index, view in enumerate(merged):
        if _describe(view) != (*_describe(first)[:3], [index]):
            return None
    dims = (*first.dims[:axis], (first.fixed[0][0],), *first.dims[axis + 1 :])
    return View(first.base, dims)


def _describe(view: View) -> tuple[list[int], list[list[int]], list[int], list[int]]:
    """The extents of the base's atoms, the atoms of each dimension, those that are fixed, and at which index."""
    atoms = view.atoms
    dims = [[atoms.index(atom) for atom in dim] for dim in view.dims]
    return [a.extent for a in atoms], dims, [atoms.index(a) for a, _ in view.fixed], [i for _, i in view.fixed]


def refine(first: View, second: View, pairs: Sequence[tuple[int, int]]) -> tuple[View, View] | None:
    """Cut atoms until the two dimensions of each pair have atoms of equal extents.

    Args:
        first: a view.
        second: another view.
        pairs: a dimension of ``first`` and one of ``second`` each.

    Returns:
        both views; None if no cut makes the extents equal.
    """
    for i, j in pairs:
        k = 0
        while True:
            a = [x for x in first.dims[i] if x.extent > 1]
            b = [x for x in second.dims[j] if x.extent > 1]
            if k == len(a) or k == len(b):
                if len(a) != len(b):
                    return None
                break
            one, two = a[k].extent, b[k].extent
            if one != two:
                small = min(one, two)
                if max(one, two) % small:
                    return None
                parts = (Atom(small), Atom(max(one, two) // small))
                if one > two:
                    first = first.split(a[k], parts)
                else:
                    second = second.split(b[k], parts)
            k += 1
    return first, second
