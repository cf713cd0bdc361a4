"""Samples: taken out of files and stacks, refused with one message, and divided."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.errors import ShapeError
from tilewright.frontend.shapes import ShapeRequest
from tilewright.quantising.samples import ModelInput, draw_samples, hold_out, take_samples
from tilewright.tensor import Array

IMAGE = ModelInput("image", (1, 3, 4, 4), np.dtype("float32"))
TOKENS = ModelInput("ids", ("batch", "tokens"), np.dtype("int64"))


def zeros(*shape: int, dtype: str = "float32") -> Array:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 3, 4, 4), 1), ((6, 1, 3, 4, 4), 6), ((6, 3, 4, 4), 6), ((0, 1, 3, 4, 4), 0)]
)
def test_samples_and_stacks_of_samples(shape: tuple[int, ...], count: int) -> None:
    found = take_samples([{"image": zeros(*shape)}], [IMAGE])
    assert [sample["image"].shape for sample in found] == [(1, 3, 4, 4)] * count


def test_an_array_without_a_name_is_that_of_the_only_input() -> None:
    assert len(take_samples([{"": zeros(2, 1, 3, 4, 4)}, {"image": zeros(1, 3, 4, 4)}], [IMAGE])) == 3
    with pytest.raises(ShapeError, match=r"an \.npy file has no names"):
        take_samples([{"": zeros(1, 3, 4, 4)}], [IMAGE, TOKENS])


def test_open_dimensions_take_every_extent() -> None:
    files = [{"ids": zeros(2, 7, dtype="int64")}, {"ids": zeros(3, 2, 9, dtype="int64")}]
    assert [sample["ids"].shape for sample in take_samples(files, [TOKENS])] == [(2, 7), (2, 9), (2, 9), (2, 9)]


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ({"imag": zeros(1, 3, 4, 4)}, r"'imag' is none; it has: image \(1,3,4,4\) float32; did you mean 'image'"),
        ({}, "there is none for 'image'"),
        ({"image": zeros(1, 3, 4, 5)}, r"the array is \(1, 3, 4, 5\)"),
        ({"image": zeros(1, 3, 4, 4, dtype="float64")}, r"\.astype\('float32'\)"),
        ({"image": np.full((1, 3, 4, 4), np.nan, np.float32)}, "48 elements that are NaN"),
    ],
)
def test_what_does_not_fit_is_refused(file: dict[str, Array], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        take_samples([file], [IMAGE])


def test_inputs_of_one_file_have_as_many_samples() -> None:
    file = {"image": zeros(2, 1, 3, 4, 4), "ids": zeros(3, 1, 5, dtype="int64")}
    with pytest.raises(ShapeError, match="2 of 'image', 3 of 'ids'"):
        take_samples([file], [IMAGE, TOKENS])


@pytest.mark.parametrize(("count", "held"), [(1, 1), (2, 1), (4, 1), (5, 1), (10, 2), (11, 2)])
def test_some_samples_are_held_out(count: int, held: int) -> None:
    samples = [{"n": np.asarray(number)} for number in range(count)]
    calibrating, judging = hold_out(samples)
    assert len(judging) == held
    numbers = [int(sample["n"]) for sample in (*calibrating, *judging)]
    assert sorted(numbers) == (list(range(count)) if count > 1 else [0, 0])


def test_random_samples_need_all_shapes() -> None:
    with pytest.raises(ShapeError, match=r"ids \(batch,tokens\) int64; give its shape with --shape"):
        draw_samples([TOKENS], 1, None, 0)
    shapes = ShapeRequest((("ids", ((1,), (8,))),))
    one, other = (draw_samples([IMAGE, TOKENS], 2, shapes, seed) for seed in (0, 1))
    assert one[0]["ids"].shape == (1, 8)
    assert set(one[0]["ids"].reshape(-1)) <= {0, 1}
    assert not np.array_equal(one[0]["image"], other[0]["image"])
