"""Calls go to the program of their shapes, are padded, or are handed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tilewright.errors import ShapeError
from tilewright.executable.dispatch import Bucket, BucketsProgram, Padding
from tilewright.executable.program import KernelTime
from tilewright.tensor import Array, TensorSpec


class Doubling:
    """A program that doubles its only input, and remembers the shapes that it was called with."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        self.seen.append(arrays[0].shape)
        return [2 * np.asarray(arrays[0], np.float32)]

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        self.seen.append(arrays[0].shape)
        return [1.0] * runs

    def overhead(self, runs: int) -> list[float]:
        return [0.0] * runs

    def profile(self, arrays: Sequence[Array], runs: int, repeats: int = 1) -> list[KernelTime]:
        return []

    def contest(self, *_: Any) -> dict[str, list[list[float]]]:
        return {}


#: The first axis of the input, and of the output.
ROWS = Padding(((0, 0),), ((0, 0),))


def bucket(program: Doubling, *shape: int, padded: bool = True) -> Bucket:
    spec = TensorSpec("x", shape, "float32")
    return Bucket((spec,), (spec,), program, (ROWS,) if padded else ())


def ones(*shape: int) -> Array:
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


def test_a_call_goes_to_its_exact_bucket_or_is_padded_to_the_smallest() -> None:
    four, sixteen = Doubling(), Doubling()
    program = BucketsProgram([bucket(sixteen, 16, 3), bucket(four, 4, 3)])
    for rows, ran in ((4, four), (16, sixteen), (3, four), (5, sixteen), (1, four)):
        (y,) = program.run([ones(rows, 3)])
        np.testing.assert_array_equal(y, 2 * ones(rows, 3))
        assert ran.seen.pop() == ((4, 3) if ran is four else (16, 3))
    assert program.time([ones(3, 3)], 2) == [1.0, 1.0]
    assert (four.seen, sixteen.seen) == ([(4, 3)], [])


@pytest.mark.parametrize("shape", [(17, 3), (4, 2), (0, 3), (4,)])
def test_a_call_that_fits_no_bucket_is_refused_with_the_buckets(shape: tuple[int, ...]) -> None:
    program = BucketsProgram([bucket(Doubling(), 4, 3), bucket(Doubling(), 16, 3)])
    with pytest.raises(ShapeError, match=r"takes x \[4, 3\] or x \[16, 3\], but x \[.*\] was given"):
        program.run([ones(*shape)])


def test_nothing_is_padded_without_a_proof() -> None:
    small, whole = Doubling(), Doubling()
    with pytest.raises(ShapeError):
        BucketsProgram([bucket(small, 4, 3, padded=False)]).run([ones(2, 3)])
    program = BucketsProgram([bucket(small, 4, 3, padded=False)], whole)
    np.testing.assert_array_equal(program.run([ones(2, 3)])[0], 2 * ones(2, 3))
    assert (small.seen, whole.seen) == ([], [(2, 3)])


def test_inputs_are_padded_together() -> None:
    """Both inputs have the watched dimension, on different axes, and must have as many rows."""
    specs = (TensorSpec("a", (4, 2), "float32"), TensorSpec("b", (2, 4), "float32"))
    padding = Padding(((0, 0), (1, 1)), ((0, 0),))
    program = BucketsProgram([Bucket(specs, specs[:1], Doubling(), (padding,))])
    assert program.run([ones(3, 2), ones(2, 3)])[0].shape == (3, 2)
    with pytest.raises(ShapeError):
        program.run([ones(3, 2), ones(2, 2)])
