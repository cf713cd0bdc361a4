"""What a user asks of inputs, and the shapes that a model gets from it."""

from __future__ import annotations

import pytest

from tilewright.errors import ShapeError
from tilewright.frontend.shapes import ShapeRequest, bind_shapes, make_request

#: An image with an open batch and width, and a mask with the same batch.
DECLARED = {"x": ("batch", 3, 48, ""), "mask": ("batch", "length")}


def request(**choices: tuple[tuple[int, ...], ...]) -> ShapeRequest:
    return ShapeRequest(tuple(choices.items()))


def test_dimensions_of_one_name_have_one_extent() -> None:
    asked = request(x=((2,), (3,), (48,), (64,)), length=((7,),))
    assert bind_shapes(asked, DECLARED) == [{"x": (2, 3, 48, 64), "mask": (2, 7)}]


def test_what_nothing_says_stays_open() -> None:
    assert bind_shapes(ShapeRequest(), DECLARED) == [{"x": (None, 3, 48, None), "mask": (None, None)}]
    assert bind_shapes(request(batch=((4,),)), DECLARED) == [{"x": (4, 3, 48, None), "mask": (4, None)}]
    assert bind_shapes(ShapeRequest(), {"x": None}) == [{"x": None}]


def test_extents_of_one_shape_are_combined() -> None:
    asked = request(x=((1, 4), (3,), (48,), (64, 128)), mask=((1,), (8,)))
    found = [bound["x"] for bound in bind_shapes(asked, DECLARED)]
    assert found == [(1, 3, 48, 64), (1, 3, 48, 128), (4, 3, 48, 64), (4, 3, 48, 128)]


def test_alternatives_of_several_inputs_go_together() -> None:
    asked = request(x=((1,), (3,), (48,), (64, 128)), mask=((1,), (8, 16)))
    found = [(bound["x"], bound["mask"]) for bound in bind_shapes(asked, DECLARED)]
    assert found == [((1, 3, 48, 64), (1, 8)), ((1, 3, 48, 128), (1, 16))]
    with pytest.raises(ShapeError, match="as many of each"):
        bind_shapes(request(x=((1,), (3,), (48,), (64, 128)), mask=((1,), (8, 16, 32))), DECLARED)


def test_named_dimensions_are_combined_with_each_other() -> None:
    found = bind_shapes(request(batch=((1,), (4,)), length=((8, 16),)), {"mask": ("batch", "length")})
    assert [bound["mask"] for bound in found] == [(1, 8), (1, 16), (4, 8), (4, 16)]


def test_equal_buckets_are_one() -> None:
    assert len(bind_shapes(request(batch=((4,), (4,))), {"x": ("batch", 2)})) == 1


def test_samples_are_buckets() -> None:
    whole = ShapeRequest(whole=({"": (2, 5)}, {"x": (3, 5)}))
    assert bind_shapes(whole, {"x": ("batch", 5)}) == [{"x": (2, 5)}, {"x": (3, 5)}]
    with pytest.raises(ShapeError, match="single input"):
        bind_shapes(whole, DECLARED)


@pytest.mark.parametrize(("given", "says"), [((5, 1, 8), True), ((5, 8), True), ((1, 9), False), ((), False)])
def test_a_stack_of_samples_is_none(given: tuple[int, ...], says: bool) -> None:
    with pytest.raises(ShapeError) as caught:
        bind_shapes(ShapeRequest(whole=({"x": given},)), {"x": (1, 8)})
    assert ("or one sample in each file of --sample" in str(caught.value)) == says


@pytest.mark.parametrize("shapes", [{"x": (1, 4, 48, 64)}, {"x": (1, 3, 48)}])
def test_a_shape_keeps_what_the_model_fixes(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ShapeError, match=r"keeps the dimensions .* 'x' is \[batch,3,48,\?\]"):
        bind_shapes(make_request(shapes), DECLARED)


def test_a_name_of_nothing() -> None:
    with pytest.raises(ShapeError, match=r"'z' is none; it has: x, mask; its open dimensions are: batch, length"):
        bind_shapes(request(z=((1,),)), DECLARED)


def test_too_many_buckets() -> None:
    with pytest.raises(ShapeError, match="at most 64 buckets"):
        bind_shapes(request(batch=(tuple(range(1, 10)),), length=(tuple(range(1, 10)),)), DECLARED)
