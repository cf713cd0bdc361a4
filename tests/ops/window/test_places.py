"""The places of the largest pixels of windows, and the gradient that goes back to them, are PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels import call_kernel
from tests.models import TARGET
from tests.targets import require
from tilewright.graph.task_use import task_of
from tilewright.ops.registry import make_space
from tilewright.ops.window.places import MaxPool, max_pool_gradient, max_pool_places, recomputing_gradient
from tilewright.space.configs import sample

torch = pytest.importorskip("torch")


def pack(tensor: Any, block: int) -> np.ndarray[Any, Any]:
    """``(n, C, h, w)`` --> ``(n, C/block, h, w, block)``; as it is for a block of 0."""
    array = tensor.numpy()
    n, c, *pixels = array.shape
    return array if not block else np.moveaxis(array.reshape(n, c // block, block, *pixels), 2, -1)


def run(function: Any, *arrays: np.ndarray[Any, Any], like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import tvm

    out = tvm.runtime.tensor(np.full_like(like, 7))
    module = tvm.ir.IRModule({"main": function.with_attr("global_symbol", "main")})
    call_kernel(module, TARGET, *(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays), out)
    return np.asarray(out.numpy())


@pytest.mark.parametrize("block", [0, 4])
@pytest.mark.parametrize(
    ("size", "stride", "pad", "dilation"), [(3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 1, 1), (2, 3, 0, 1), (3, 2, 1, 2)]
)
def test_the_first_of_equal_pixels_counts(size: int, stride: int, pad: int, dilation: int, block: int) -> None:
    require(TARGET)
    x = torch.relu(torch.randn(2, 8, 9, 10, generator=torch.Generator().manual_seed(0)))  # zeros are equal
    numbers = [[size] * 2, [stride] * 2, [pad] * 2, [dilation] * 2]
    largest, places = torch.ops.aten.max_pool2d_with_indices(x, *numbers)
    gradient = torch.randn(largest.shape, generator=torch.Generator().manual_seed(1))
    pool = MaxPool(tuple(x.shape), tuple(largest.shape[2:]), *((n, n) for n in (size, stride, pad, dilation)))
    assert MaxPool.parse(pool.detail()) == pool
    wanted = pack(places, block)
    found = run(max_pool_places(pool, block), pack(x, block), pack(largest, block), like=wanted)
    np.testing.assert_array_equal(found, wanted)
    if dilation == 1:
        exact = torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *numbers, False, places)
        wanted = pack(exact, block)
        found = run(max_pool_gradient(pool, block), pack(gradient, block), pack(places, block), like=wanted)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        found = run(recomputing_gradient(pool, block), pack(gradient, block), pack(x, block), like=wanted)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_every_program_that_seeks_the_largest_pixels_is_right() -> None:
    import tvm

    require(TARGET)
    x = torch.relu(torch.randn(2, 16, 8, 10, generator=torch.Generator().manual_seed(0)))
    x[0, :, :4, :4] = -torch.inf  # the first of them counts
    largest, places = torch.ops.aten.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1])
    gradient = torch.randn(largest.shape, generator=torch.Generator().manual_seed(1))
    pool = MaxPool(tuple(x.shape), tuple(largest.shape[2:]), (3, 3), (2, 2), (1, 1))
    exact = torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, [3, 3], [2, 2], [1, 1], [1, 1], False, places)
    wanted = pack(exact, 8)
    space = make_space(task_of("gradient", recomputing_gradient(pool, 8)), TARGET)
    assert space.template == "window/1"
    assert [knob.name for knob in space.knobs][-1] == "rows"
    for config in [space.default(), *sample(space, np.random.default_rng(0), 6)]:
        arguments = [tvm.runtime.tensor(np.ascontiguousarray(pack(t, 8))) for t in (gradient, x)]
        out = tvm.runtime.tensor(np.full_like(wanted, np.nan))
        call_kernel(space.schedule(config).mod, TARGET, *arguments, out)
        np.testing.assert_allclose(out.numpy(), wanted, rtol=1e-5, atol=1e-6, err_msg=str(config))


def test_what_is_no_number_has_a_place_inside_the_image() -> None:
    require(TARGET)
    pool = MaxPool((1, 1, 4, 4), (2, 2), (2, 2), (2, 2), (0, 0))
    x, largest = np.full((1, 1, 4, 4), np.nan, np.float32), np.full((1, 1, 2, 2), np.nan, np.float32)
    places = run(max_pool_places(pool), x, largest, like=np.zeros((1, 1, 2, 2), np.int64))
    assert places.min() >= 0
    assert places.max() < 16
