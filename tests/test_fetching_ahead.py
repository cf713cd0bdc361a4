"""Convolutions that fetch weights and data ahead: which programs do so, and that they compute the same."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels import call_kernel
from tests.targets import host_target, require
from tilewright.graph.tasks import task_of
from tilewright.ops import contraction, winograd
from tilewright.ops.registry import make_space
from tilewright.ops.winograd import Tiling
from tilewright.task import Task
from tilewright.tvm_compat import keep_nan


def _convolution(side: int, kernel: int, inputs: int, outputs: int) -> Task:
    """A convolution of an image in blocks of 16 channels, of which there are ``inputs`` and ``outputs``."""
    data, weight = (1, inputs, side, side, 16), (outputs, inputs, kernel, kernel, 16, 16)
    edge = kernel // 2
    return task_of("conv2d", contraction.conv2d(data, weight, (1, 1), (edge, edge, edge, edge), (1, 1)), (1,))


@pytest.mark.parametrize(("side", "inputs", "outputs"), [(7, 4, 6), (14, 3, 4)])
def test_a_1x1_convolution_fetches_and_computes_the_same(side: int, inputs: int, outputs: int) -> None:
    import tvm

    require(host_target())
    space = make_space(_convolution(side, 1, inputs, outputs), host_target())
    module = space.schedule(space.default()).mod
    assert "prefetch" in keep_nan(module).script()
    rng = np.random.default_rng(0)
    data = rng.standard_normal((1, inputs, side, side, 16)).astype("float32")
    weight = rng.standard_normal((outputs, inputs, 1, 1, 16, 16)).astype("float32")
    result = tvm.runtime.tensor(np.full((1, outputs, side, side, 16), np.nan, "float32"))
    call_kernel(module, host_target(), tvm.runtime.tensor(data), tvm.runtime.tensor(weight), result)
    wanted = np.einsum("nchwi,ocxyil->nohwl", data.astype("float64"), weight)
    np.testing.assert_allclose(result.numpy(), wanted, atol=1e-4)


def test_products_of_winograd_fetch_the_weights_of_the_next_panel() -> None:
    tiling = Tiling.of(4, 1, 14, 14, (1, 1, 1, 1))
    weight = (36, 4, 4, 16, 16)
    space = make_space(task_of("winograd", winograd.fused(tiling, (1, 4, 14, 14, 16), weight), (1,)), host_target())
    assert "prefetch" in keep_nan(space.schedule(space.default()).mod).script()


def test_a_program_with_all_outputs_in_a_tile_fetches_no_weights() -> None:
    space = make_space(_convolution(14, 3, 2, 1), host_target())
    assert "prefetch" not in keep_nan(space.schedule(space.default()).mod).script()
