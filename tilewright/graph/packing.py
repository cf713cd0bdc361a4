"""Packs weights that change from call to call: the steps of their recipes become calls of the plan.

    weight (O, C, 3, 3), Recipe(reshape, transpose)  -->  permute_dims(reshape(weight))

A weight that does not change is packed once, when the executable is built (:mod:`tilewright.graph.weights`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import Atom, View
from tilewright.graph.weights import Recipe

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["apply", "see"]


def apply(walk: Rewriter, recipe: Recipe) -> relax.Expr:
    """The tensor that a recipe makes of a varying weight. Recipes that begin with the same steps share these.

    Steps in a row that only move elements, or leave some out, are one pass over the weight:

        flip(transpose(slice(weight))), reshape  -->  reshape(permute_dims(flip(strided_slice(reshape(weight)))))

    Args:
        walk: emits the new graph.
        recipe: its source is one of ``walk.varying``.
    """
    from tvm import relax

    moves = _Moves(walk.varying[recipe.source])
    for count, (kind, argument) in enumerate(recipe.steps, 1):
        if kind in _MOVES and moves.add(kind, argument):
            continue
        moves = _Moves(_keep(walk, recipe, count - 1, moves))
        if kind in _MOVES:
            moves.add(kind, argument)
            continue
        step = _STEPS.get(kind)
        if step is None:
            raise ValueError(f"a varying weight is moved, but this step of its recipe computes: {kind!r}")
        known = (recipe.source, recipe.steps[:count])
        if known not in walk.packed:
            walk.packed[known] = step(walk, moves.tensor, argument)
        moves = _Moves(walk.packed[known])
    tensor = _keep(walk, recipe, len(recipe.steps), moves)
    assert isinstance(tensor, relax.Var)
    return tensor


def see(walk: Rewriter, recipe: Recipe) -> Value | None:
    """The array of a recipe as a view of the varying weight; None if a step is more than a view.

    Args:
        walk: emits the new graph.
        recipe: its source is one of ``walk.varying``.
    """
    tensor = walk.varying[recipe.source]
    view: View | None = View.of(shape_of(tensor))
    for kind, argument in recipe.steps:
        if view is None or kind not in ("reshape", "transpose"):
            return None
        view = view.permute(argument) if kind == "transpose" else view.reshape(argument)
    return None if view is None else Value.plain(shape_of(tensor), tensor).seen(view)


#: The steps that only move elements.
_MOVES = ("reshape", "transpose", "flip", "slice")


class _Moves:
    """A tensor that is to be cut, reshaped, transposed and reversed.

    Args:
        tensor: as it lies.

    Attributes:
        tensor: as it lies.
    """

    def __init__(self, tensor: relax.Expr) -> None:
        self.tensor = tensor
        self._view = View.of(shape_of(tensor))
        self._reversed: set[Atom] = set()
        # By what is left of an atom: its extent before, and begin, end and step of what is left.
        self._cuts: dict[Atom, tuple[int, ...]] = {}

    def add(self, kind: str, argument: tuple[int, ...]) -> bool:
        """Add a step; False if the steps so far have to be carried out before it."""
        if kind == "slice":
            return self._cut(*argument)
        if kind == "flip":
            self._reversed ^= {atom for axis in argument for atom in self._view.dims[axis]}
            return True
        view = self._view.permute(argument) if kind == "transpose" else self._view.reshape(argument)
        if view is None or not all(atom.extent == 1 or atom in view.atoms for atom in {*self._reversed, *self._cuts}):
            return False
        self._view = view
        return True

    def _cut(self, axis: int, begin: int, end: int, step: int = 1) -> bool:
        """Keep a part of a dimension; False as :meth:`add`."""
        view, atoms = self._view, [atom for atom in self._view.dims[axis] if atom.extent > 1]
        if not atoms:  # all of its one element
            return True
        if len(atoms) > 1 or atoms[0] in self._reversed or atoms[0] in self._cuts:
            return False
        count = len(range(begin, end, step))
        if count == 1:
            dims = (*view.dims[:axis], (), *view.dims[axis + 1 :])
            self._view = View(view.base, dims, (*view.fixed, (atoms[0], begin)))
        else:
            kept = Atom(count)
            self._cuts[kept] = (atoms[0].extent, begin, end, step)
            self._view = view.split(atoms[0], (kept,))
        return True

    def carry_out(self, walk: Rewriter) -> relax.Expr:
        """The tensor after all steps."""
        from tvm import relax

        view, atoms = self._view, self._view.atoms
        fixed = dict(view.fixed)
        back = [place for place, atom in enumerate(atoms) if atom in self._reversed]
        order = [atoms.index(atom) for dim in view.dims for atom in dim if atom.extent > 1]
        parts = [
            (place, *(self._cuts[atom][1:] if atom in self._cuts else (fixed[atom], fixed[atom] + 1, 1)))
            for place, atom in enumerate(atoms)
            if atom in self._cuts or atom in fixed
        ]
        if not back and not parts and order == sorted(order):
            return walk.reshape(self.tensor, view.shape)
        extents = tuple(self._cuts[atom][0] if atom in self._cuts else atom.extent for atom in atoms)
        tensor = walk.reshape(self.tensor, extents)
        if parts:
            axes, begins, ends, steps = map(list, zip(*parts, strict=True))
            tensor = walk.emit(relax.op.strided_slice(tensor, axes, begins, ends, steps, assume_inbound=True))
        for place in back:
            tensor = walk.emit(relax.op.flip(tensor, place))
        if order != sorted(order):
            rest = [place for place, atom in enumerate(atoms) if atom in fixed]
            tensor = walk.emit(relax.op.permute_dims(tensor, [*order, *rest]))
        return walk.reshape(tensor, view.shape)


def _keep(walk: Rewriter, recipe: Recipe, count: int, moves: _Moves) -> relax.Expr:
    """The tensor after the first steps of a recipe, which is made once."""
    done = (recipe.source, recipe.steps[:count])
    if done not in walk.packed:
        walk.packed[done] = moves.carry_out(walk)
    return walk.packed[done]


def _take(walk: Rewriter, tensor: relax.Expr, argument: tuple[int, ...]) -> relax.Expr:
    """The elements at indices along an axis; zeros at indices of -1."""
    from tvm import relax

    axis, *indices = argument
    rank = len(tensor.ty.shape.values)
    count = int(tensor.ty.shape.values[axis])
    if indices[:count] == list(range(count)) and set(indices[count:]) <= {-1}:  # gaps at the end alone
        widths = [0] * (2 * rank)
        widths[2 * axis + 1] = len(indices) - count
        return walk.emit(relax.op.nn.pad(tensor, widths))
    table = np.maximum(np.asarray(indices, dtype=np.int64), 0)
    taken = walk.emit(relax.op.take(tensor, relax.const(table), axis=axis, mode="clip"))
    if -1 not in indices:
        return taken
    mask = (np.asarray(indices) >= 0).astype("float32").reshape([-1 if d == axis else 1 for d in range(rank)])
    return walk.emit(relax.op.multiply(taken, relax.const(mask)))


_Step: TypeAlias = "Callable[[Rewriter, relax.Expr, tuple[int, ...]], relax.Expr]"
#: What does each step of a recipe, by its kind.
_STEPS: dict[str, _Step] = {
    "take": _take,
}
