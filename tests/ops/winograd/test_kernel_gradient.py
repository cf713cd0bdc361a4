"""Gradients of the weights of 3x3 convolutions by Winograd's algorithm: all stages together give those of float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import call_kernel
from tests.targets import LANES, lane_target, require
from tilewright.graph.tasks import task_of
from tilewright.ops import winograd
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.recorded import check_recorded
from tilewright.target import Target

Array = NDArray[Any]

#: batch, inputs, outputs, rows, columns, padding, block of inputs. The outputs have blocks of the target's lanes.
CASES: dict[str, tuple[int, int, int, int, int, tuple[int, int, int, int], int]] = {
    "sticks out": (2, 16, 32, 9, 11, (1, 1, 1, 1), 8),
    "exact": (1, 16, 16, 8, 8, (1, 1, 1, 1), 16),
    "padding differs": (2, 8, 16, 10, 9, (0, 1, 1, 0), 4),
    "no padding": (3, 4, 16, 10, 6, (0, 0, 0, 0), 2),
}


def block(images: Array, length: int) -> Array:
    """NCHW --> NCHW[length]c."""
    n, channels, height, width = images.shape
    return images.reshape(n, channels // length, length, height, width).transpose(0, 1, 3, 4, 2)


def run(function: Any, arrays: list[Array], shape: tuple[int, ...], target: Target, draw: int) -> Array:
    """The result of the default (0), or of a random config."""
    import tvm

    require(target)
    task = task_of("stage", function)
    space = make_space(task, target)
    assert not space.template.startswith("auto")
    check_recorded(task)
    config = sample(space, np.random.default_rng(draw), 1)[0] if draw else space.default()
    out = tvm.runtime.tensor(np.full(shape, np.nan, dtype=np.float32))
    arguments = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays]
    call_kernel(space.schedule(config).mod, target, *arguments, out)
    return np.asarray(out.numpy())


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("name", CASES)
def test_stages_together_give_the_gradient(name: str, lanes: int) -> None:
    n, c, o, height, width, padding, cb = CASES[name]
    tiling, target = winograd.Tiling.of(4, n, height, width, padding), lane_target(lanes)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n, c, height, width)).astype(np.float32)
    dy = rng.standard_normal((n, o, tiling.rows, tiling.cols)).astype(np.float32)
    top, left, bottom, right = padding
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    wanted = np.empty((o, c, 3, 3))
    for i, j in np.ndindex(3, 3):
        seen = padded[:, :, i : i + tiling.rows, j : j + tiling.cols]
        wanted[:, :, i, j] = np.einsum("nohw,nchw->oc", dy, seen)
    data, gradient = block(images, cb), block(dy, lanes)
    blocks = ((c // cb, cb), (o // lanes, lanes))
    for draw in range(2):
        transformed = (36, c // cb, tiling.tiles, cb)
        v = run(winograd.data_transform(tiling, data.shape), [data], transformed, target, draw)
        spread = (36, o // lanes, tiling.tiles, lanes)
        w = run(winograd.spread_gradient(tiling, gradient.shape), [gradient], spread, target, draw)
        shape = (36, c // cb, o // lanes, cb, lanes)
        sums = run(winograd.sum_tiles(tiling, *blocks), [v, w], shape, target, draw)
        result = run(winograd.gather_kernels(4, *blocks), [sums], (o // lanes, c, 3, 3, lanes), target, draw)
        found = result.transpose(0, 4, 1, 2, 3).reshape(o, c, 3, 3)
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
