"""Views: any chain of reshapes, transpositions and indices, held against numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilewright.graph.view import View, join_views, refine


def made(view: View, base: NDArray[Any]) -> NDArray[Any]:
    """What the view shows of its base."""
    atoms = view.atoms
    array = base.reshape([a.extent for a in atoms])
    fixed = {atoms.index(a): i for a, i in view.fixed if a.extent > 1}
    kept = [a for i, a in enumerate(atoms) if i not in fixed]
    array = array[tuple(fixed.get(i, slice(None)) for i in range(len(atoms)))]
    order = [kept.index(a) for dim in view.dims for a in dim if a.extent > 1]
    return np.asarray(array.transpose(order).reshape(view.shape))


def factors(draw: Callable[..., Any], size: int) -> list[int]:
    shape = []
    while size > 1:
        shape.append(draw(st.sampled_from([d for d in range(2, size + 1) if size % d == 0])))
        size //= shape[-1]
    return [*shape, *([1] * draw(st.integers(0, 1)))] or [1]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_views_are_what_numpy_makes(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    base = np.arange(math.prod(shape)).reshape(shape)
    view = View.of(shape)
    array: NDArray[Any] = base
    for step in data.draw(st.lists(st.sampled_from(["reshape", "permute", "index"]), max_size=5)):
        if step == "reshape":
            wanted = factors(data.draw, array.size)
            reshaped = view.reshape(wanted)
            if reshaped is None:
                continue
            view, array = reshaped, array.reshape(wanted)
        elif step == "permute":
            axes = data.draw(st.permutations(range(array.ndim)))
            view, array = view.permute(axes), array.transpose(axes)
        elif array.ndim > 1:
            axis = data.draw(st.integers(0, array.ndim - 1))
            position = data.draw(st.integers(0, array.shape[axis] - 1))
            view, array = view.index(axis, position), np.asarray(array.take(position, axis))
        assert view.shape == array.shape
        np.testing.assert_array_equal(made(view, base), array)
        np.testing.assert_array_equal(made(view.merge(), base), array)
        if view.in_order:
            np.testing.assert_array_equal(base.reshape(array.shape), array)


def test_a_reshape_that_mixes_atoms_up_is_refused() -> None:
    assert View.of((6, 4)).permute((1, 0)).reshape((3, 8)) is None
    plain = View.of((6, 4)).reshape((3, 8))
    assert plain is not None
    assert plain.in_order


def test_heads_merge_to_what_they_were_split_from() -> None:
    heads = View.of((5, 24)).reshape((5, 3, 8))
    assert heads is not None
    back = heads.permute((1, 0, 2)).permute((1, 0, 2)).reshape((5, 24))
    assert back is not None
    assert back.in_order
    assert [a.extent for a in back.merge().atoms] == [5, 24] or [a.extent for a in back.merge().atoms] == [120]


def test_refined_dimensions_have_equal_atoms() -> None:
    one, two = View.of((2, 6)).reshape((12,)), View.of((4, 3)).reshape((12,))
    assert one is not None
    assert two is not None
    cut = refine(one, two, [(0, 0)])
    assert cut is not None
    assert [a.extent for a in cut[0].dims[0]] == [a.extent for a in cut[1].dims[0]] == [2, 2, 3]
    assert refine(View.of((2, 3)).reshape((6,)) or one, View.of((3, 2)).reshape((6,)) or two, [(0, 0)]) is None


def test_views_of_all_parts_are_joined() -> None:
    shape = (2, 5, 3, 4)
    parts = [View.of(shape).permute((2, 0, 1, 3)).index(0, place).reshape((2, 5, 1, 4)) for place in range(3)]
    views = [part for part in parts if part is not None]
    joined = join_views(views, 2)
    assert joined is not None
    assert joined.in_order
    assert joined.shape == shape
    turned = join_views([view.permute((1, 2, 0, 3)) for view in views], 1)
    assert turned is not None
    assert turned.shape == (5, 3, 2, 4)
    base = np.arange(120).reshape(shape)
    np.testing.assert_array_equal(made(turned, base), base.transpose(1, 2, 0, 3))
    assert join_views(views[::-1], 2) is None  # in another order
    assert join_views(views[:2], 2) is None  # not all
    assert join_views(views, 0) is None  # along another dimension
    assert join_views([View.of((2, 4))] * 2, 0) is None  # no parts
