"""Winograd's algorithm on bytes: the sums of the direct algorithm, exactly, also of the largest numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.kernels import call_kernel
from tests.targets import LANES, lane_target, require
from tilewright.graph.tasks import task_of
from tilewright.ops.registry import make_space
from tilewright.ops.winograd import (
    MOST_INPUTS,
    Tiling,
    byte_data_transform,
    byte_inverse_transform,
    byte_products,
    transform_byte_weight,
)
from tilewright.space.configs import sample
from tilewright.target import Target
from tilewright.task import Task

ZERO = 200
CASES = {
    # batch, blocks of inputs, blocks of outputs, (height, width), padding
    "padded": (1, 2, 2, (7, 10), (1, 1, 1, 1)),
    "batch": (2, 1, 3, (6, 5), (1, 0, 0, 1)),
    "exact": (1, 3, 1, (6, 8), (0, 0, 0, 0)),
}


def run(task: Task, target: Target, drawn: int, *arguments: NDArray[Any]) -> NDArray[Any]:
    """The result of a task by its default program; programs of other configs give the same."""
    from tvm import runtime

    from tilewright.space.module import task_module

    space = make_space(task, target)
    assert not space.template.startswith("auto")
    ty = task_module(task)["main"].params[-1].ty
    results = []
    for config in [space.default(), *sample(space, np.random.default_rng(0), drawn)]:
        result = runtime.tensor(np.full([int(e) for e in ty.shape], 77, str(ty.dtype)))
        call_kernel(space.schedule(config).mod, target, *map(runtime.tensor, arguments), result)
        results.append(result.numpy())
    assert all(np.array_equal(result, results[0]) for result in results)
    return np.asarray(results[0])


def convolve(
    data: NDArray[Any], weight: NDArray[Any], tiling: Tiling, target: Target, drawn: int = 0
) -> NDArray[np.int32]:
    """The sums of blocked data and plain weights ``(O, C, 3, 3)`` by the three functions."""
    lanes, (_, cc, _, _, cb) = target.lanes, data.shape
    u = transform_byte_weight(weight).reshape(-1, lanes, cc, cb // 2, 2, 16).transpose(5, 0, 2, 3, 1, 4)
    v = run(task_of("data", byte_data_transform(tiling, data.shape, ZERO)), target, drawn, data)
    m = run(task_of("products", byte_products(tiling, u.shape), (1,)), target, drawn, v, np.ascontiguousarray(u))
    inverse = byte_inverse_transform(tiling, u.shape[1], lanes)
    return np.asarray(run(task_of("inverse", inverse), target, drawn, m))


def direct(data: NDArray[Any], weight: NDArray[Any], tiling: Tiling, lanes: int) -> NDArray[np.int64]:
    n, cc, height, width, cb = data.shape
    image = data.transpose(0, 1, 4, 2, 3).reshape(n, cc * cb, height, width).astype(np.int64)
    top, left, bottom, right = tiling.padding
    image = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=ZERO)
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.int64))
    return np.asarray(sums.reshape(n, -1, lanes, *sums.shape[2:]).transpose(0, 1, 3, 4, 2))


@pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: f"{lanes} lanes")
@pytest.mark.parametrize("name", CASES)
def test_sums_are_those_of_the_direct_algorithm(name: str, lanes: int) -> None:
    target = lane_target(lanes)
    require(target)
    batch, inputs, outputs, (height, width), padding = CASES[name]
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (batch, inputs, height, width, lanes)).astype(np.uint8)
    weight = rng.integers(-128, 128, (outputs * lanes, inputs * lanes, 3, 3)).astype(np.int8)
    tiling = Tiling.of(2, batch, height, width, padding)
    found = convolve(data, weight, tiling, target, drawn=1 if name == "padded" else 0)
    assert np.array_equal(found, direct(data, weight, tiling, lanes))


@pytest.mark.parametrize("lightest", [-128, 127])
def test_the_largest_numbers_do_not_overflow(lightest: int) -> None:
    target = lane_target(8)
    require(target)
    tiling = Tiling.of(2, 1, 4, 4, (1, 1, 1, 1))
    data = np.full((1, MOST_INPUTS // 8, 4, 4, 8), 255, np.uint8)
    weight = np.full((8, MOST_INPUTS, 3, 3), lightest, np.int8)
    weight[1::2, :, 1] *= -1  # of these outputs, other elements are the largest
    assert np.array_equal(convolve(data, weight, tiling, target), direct(data, weight, tiling, 8))


@given(weight=arrays(np.int8, (2, 3, 3)), data=arrays(np.uint8, (2, 4, 4)))
def test_a_tile_fits_its_types(weight: NDArray[np.int8], data: NDArray[np.uint8]) -> None:
    b = np.asarray([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    a = np.asarray([[1, 1, 1, 0], [0, 1, -1, -1]])
    u, v = transform_byte_weight(weight).astype(np.int64), b @ data.astype(np.int64) @ b.T
    assert np.abs(u).max() <= 1152
    assert np.abs(v).max() <= 1020
    windows = np.lib.stride_tricks.sliding_window_view(data.astype(np.int64), (3, 3), (1, 2))
    assert np.array_equal(a @ (u * v) @ a.T, 4 * np.einsum("chwij,cij->chw", windows, weight.astype(np.int64)))
