"""Functions with sums: every program gives the image, and the sums of its channels as of float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels import call_kernel
from tests.models import TARGET
from tests.targets import require
from tilewright.graph.pairs import join_functions
from tilewright.graph.task_use import key_of, make_use, strip
from tilewright.ops import contraction, depthwise_gradient, winograd
from tilewright.ops.mark import take_mark
from tilewright.ops.pixel_sums import Statistics, channel_statistics
from tilewright.ops.registry import make_space
from tilewright.ops.summed import make_mark
from tilewright.space.configs import sample
from tilewright.space.recorded import check_recorded
from tilewright.task import Task

_PADDED = (1, 1, 1, 1)
_TILING = winograd.Tiling.of(4, 2, 7, 9, _PADDED)
_GRADIENT = depthwise_gradient.DataGradient((2, 24, 7, 9), (4, 5), (3, 3), (2, 2), (1, 1))
#: Functions whose results are images in blocks, each with the shapes of its operands and of its result.
BASES: dict[str, tuple[Any, list[tuple[int, ...]], tuple[int, ...]]] = {
    "1x1": (
        contraction.conv2d((2, 2, 7, 9, 8), (3, 2, 1, 1, 8, 8), (1, 1), (0, 0, 0, 0), (1, 1)),
        [(2, 2, 7, 9, 8), (3, 2, 1, 1, 8, 8)],
        (2, 3, 7, 9, 8),
    ),
    "3x3": (
        contraction.conv2d((2, 1, 7, 9, 8), (3, 1, 3, 3, 8, 8), (2, 2), _PADDED, (1, 1)),
        [(2, 1, 7, 9, 8), (3, 1, 3, 3, 8, 8)],
        (2, 3, 4, 5, 8),
    ),
    "depthwise": (
        contraction.depthwise_conv2d((2, 3, 7, 9, 8), (3, 3, 3, 8), (1, 1), _PADDED, (1, 1)),
        [(2, 3, 7, 9, 8), (3, 3, 3, 8)],
        (2, 3, 7, 9, 8),
    ),
    "gradient": (
        depthwise_gradient.data_gradient(_GRADIENT, (2, 3, 4, 5, 8)),
        [(2, 3, 4, 5, 8), (3, 3, 3, 8)],
        (2, 3, 7, 9, 8),
    ),
    "inverse": (winograd.inverse_transform(_TILING, 3, 8), [(36, 3, _TILING.tiles, 8)], (2, 3, 7, 9, 8)),
}


def make_task(name: str, products: bool) -> tuple[Task, Any]:
    """A task with sums, and the function without them."""
    from tvm import relax

    function, shapes, image = BASES[name]
    n, blocks, height, width, lanes = image
    sums = channel_statistics(Statistics((n, blocks * lanes, height, width), products), image)
    bare, mark = take_mark(function)
    count = len(shapes)
    reads = (None, count, count + 1) if products else (None,)
    operands = [*shapes, *((image, (blocks * lanes,)) if products else ())]
    kinds, results = (
        [relax.TensorType(shape, "float32") for shape in each] for each in (operands, (image, (2, blocks * lanes)))
    )
    joined, _ = take_mark(join_functions(bare, sums, kinds, (range(count), reads), (results[0], results[1])))
    stripped = strip(joined)
    return make_use(key_of(stripped), ["summed"], stripped, make_mark(mark), 1, ()).task, bare


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("name", BASES)
def test_every_program_gives_the_image_and_its_sums(name: str, products: bool) -> None:
    import tvm

    require(TARGET)
    task, bare = make_task(name, products)
    if products:  # TVM writes that the end of moments reads a range of sums, which records may not hold
        check_recorded(task)
    space = make_space(task, TARGET)
    assert space.template.startswith("summed/1:")
    _, shapes, image = BASES[name]
    channels, axes = image[1] * image[4], (0, 2, 3)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    others = [rng.standard_normal(s).astype(np.float32) for s in ((image, (channels,)) if products else ())]
    wanted = tvm.runtime.tensor(np.zeros(image, np.float32))
    call_kernel(
        tvm.ir.IRModule({"main": bare.with_attr("global_symbol", "main")}), TARGET, *map(_tensor, arrays), wanted
    )
    exact = wanted.numpy().astype(np.float64)
    if products:
        centred = others[0].astype(np.float64) - others[1].astype(np.float64).reshape(1, image[1], 1, 1, image[4])
        sums = np.stack([exact.sum(axes).reshape(-1), (exact * centred).sum(axes).reshape(-1)])
    else:
        sums = np.stack([exact.mean(axes).reshape(-1), exact.var(axes).reshape(-1)])
    for config in [space.default(), *sample(space, rng, 5)]:
        results = [_tensor(np.full(shape, np.nan, np.float32)) for shape in (image, (2, channels))]
        call_kernel(space.schedule(config).mod, TARGET, *map(_tensor, [*arrays, *others]), *results)
        np.testing.assert_allclose(results[0].numpy(), exact, rtol=1e-4, atol=1e-4, err_msg=str(config))
        np.testing.assert_allclose(results[1].numpy(), sums, rtol=1e-4, atol=1e-4, err_msg=str(config))


def _tensor(array: Any) -> Any:
    import tvm

    return tvm.runtime.tensor(np.ascontiguousarray(array))
