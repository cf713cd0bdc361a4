"""The space of sums over the batch and all pixels: every program gives the gradients and statistics of float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import call_kernel
from tests.models import TARGET
from tests.targets import LANES, lane_target, require
from tilewright.errors import SpaceError
from tilewright.graph.tasks import task_of
from tilewright.ops import pixel_sums, rows
from tilewright.ops.pixel_sums import PixelSumsSpace, Statistics, WeightGradient
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.recorded import check_recorded
from tilewright.target import Target

Array = NDArray[Any]

#: data, weights, stride, padding, dilation, groups; blocks of the data and of the gradient.
CASES: dict[str, tuple[WeightGradient, int, int]] = {
    "3x3": (WeightGradient((2, 16, 9, 9), (32, 16, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), 8, 16),
    "first layer": (WeightGradient((4, 3, 16, 16), (16, 3, 7, 7), (2, 2), (3, 3, 3, 3), (1, 1)), 3, 16),
    "1x1": (WeightGradient((2, 16, 7, 7), (16, 16, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), 8, 8),
    "groups": (WeightGradient((2, 24, 8, 8), (32, 6, 3, 2), (1, 2), (2, 0, 2, 0), (2, 1), 4), 6, 8),
    "depthwise": (WeightGradient((4, 16, 8, 8), (16, 1, 3, 3), (2, 1), (1, 1, 1, 1), (1, 1), 16), 16, 16),
}


def run(
    function: Any, arrays: Sequence[Array], shape: Sequence[int], count: int, target: Target = TARGET
) -> list[Array]:
    """The results of the default and of random configs."""
    import tvm

    require(target)
    space = make_space(task_of("sums", function), target)
    assert isinstance(space, PixelSumsSpace)
    configs = [space.default(), *sample(space, np.random.default_rng(0), count)]
    assert space.valid(np.stack(configs)).all()
    results = []
    for config in configs:
        out = tvm.runtime.tensor(np.full(shape, np.nan, dtype=np.float32))
        arguments = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays]
        call_kernel(space.schedule(config).mod, target, *arguments, out)
        results.append(np.asarray(out.numpy()))
    return results


def block(images: Array, length: int) -> Array:
    """NCHW --> NCHW[length]c."""
    n, channels, height, width = images.shape
    return images.reshape(n, channels // length, length, height, width).transpose(0, 1, 3, 4, 2)


def exact(gradient: WeightGradient, data: Array, dy: Array) -> Array:
    """The gradient in float64, tap by tap."""
    g, (n, out, height, width) = gradient, gradient.output
    top, left, bottom, right = g.padding
    padded = np.pad(data.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    x = padded.reshape(n, g.groups, -1, *padded.shape[2:])
    d = dy.astype(np.float64).reshape(n, g.groups, out // g.groups, height, width)
    result = np.empty(g.weight)
    for y in range(g.weight[2]):
        for k in range(g.weight[3]):
            i, j = y * g.dilation[0], k * g.dilation[1]
            seen = x[..., i : i + g.stride[0] * height : g.stride[0], j : j + g.stride[1] * width : g.stride[1]]
            seen = seen[..., :height, :width]
            result[:, :, y, k] = np.einsum("ngchw,ngohw->goc", seen, d).reshape(out, -1)
    return result


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_weights(name: str, lanes: int) -> None:
    gradient, cb, x = CASES[name]
    rng = np.random.default_rng(0)
    data, dy = (rng.standard_normal(shape).astype(np.float32) for shape in (gradient.data, gradient.output))
    blocked = [block(data, cb), block(dy, x)]
    if name == "depthwise":
        function = pixel_sums.depthwise_gradient(gradient, blocked[0].shape)
    else:
        function = pixel_sums.weight_gradient(gradient, blocked[0].shape, blocked[1].shape)
    check_recorded(task_of(name, function))
    wanted = exact(gradient, data, dy)
    for result in run(function, blocked, gradient.weight, 4, lane_target(lanes)):
        np.testing.assert_allclose(result, wanted, atol=1e-5 * np.abs(wanted).max())


def test_channels_end_in_gaps() -> None:
    gradient = WeightGradient((2, 5, 6, 6), (10, 5, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1))
    rng = np.random.default_rng(0)
    data, dy = (rng.standard_normal(shape).astype(np.float32) for shape in (gradient.data, gradient.output))
    blocked = [block(np.pad(a, ((0, 0), (0, gaps), (0, 0), (0, 0))), 8) for a, gaps in ((data, 3), (dy, 6))]
    function = pixel_sums.weight_gradient(gradient, blocked[0].shape, blocked[1].shape)
    wanted = exact(gradient, data, dy)
    for result in run(function, blocked, gradient.weight, 1):
        np.testing.assert_allclose(result, wanted, atol=1e-5 * np.abs(wanted).max())


def test_statistics_of_channels() -> None:
    shape = (4, 16, 6, 5)
    rng = np.random.default_rng(0)
    images = (rng.standard_normal(shape) + 100).astype(np.float32)  # a mean far from zero
    dy = rng.standard_normal(shape).astype(np.float32)
    mean = images.mean((0, 2, 3))
    wide, axes = images.astype(np.float64), (0, 2, 3)
    moments = np.stack([wide.mean(axes), wide.var(axes)])
    centred = wide - mean[:, None, None].astype(np.float64)
    products = np.stack([dy.sum(axes, dtype=np.float64), (dy * centred).sum(axes)])
    blocked = [block(dy, 8), block(images, 8)]
    for wanted, with_dy, operands in ((moments, False, blocked[1:]), (products, True, [*blocked, mean])):
        function = pixel_sums.channel_statistics(Statistics(shape, with_dy), blocked[0].shape)
        for result in run(function, operands, (2, 16), 2):
            np.testing.assert_allclose(result, wanted, rtol=3e-7, atol=1e-6)  # a rounding or two, as PyTorch's have
    for result in run(pixel_sums.channel_sum(blocked[0].shape, 16), blocked[:1], (16,), 1):
        np.testing.assert_allclose(result, products[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lanes", LANES)
def test_sums_of_columns(lanes: int) -> None:
    tokens, columns = 35, 96
    data = np.random.default_rng(0).standard_normal((tokens, columns)).astype(np.float32)
    function = pixel_sums.token_sum(tokens, columns, lanes)
    check_recorded(task_of("sums", function))
    for result in run(function, [data], (columns,), 4, lane_target(lanes)):
        np.testing.assert_allclose(result, data.sum(0, dtype=np.float64), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("x", [8, 16])
def test_gradients_of_a_layer_norms_scale_and_shift(x: int) -> None:
    tokens, columns = 35, 48
    rng = np.random.default_rng(0)
    dy, data = (rng.standard_normal((tokens, columns)).astype(np.float32) for _ in range(2))
    data += 100  # a mean far from zero
    mean = data.mean(1, dtype=np.float64).astype(np.float32)
    inverse = (1 / data.std(1)).astype(np.float32)
    normal = (data - mean[:, None].astype(np.float64)) * inverse[:, None]
    wanted = np.stack([(dy * normal).sum(0), dy.sum(0, dtype=np.float64)])
    for result in run(pixel_sums.norm_sums(tokens, columns, x), [dy, data, mean, inverse], (2, columns), 2):
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_programs_differ(name: str) -> None:
    gradient, cb, x = CASES[name]
    n, channels, height, width = gradient.data
    data = (n, channels // cb, height, width, cb)
    _, out, rows_, cols = gradient.output
    if name == "depthwise":
        function = pixel_sums.depthwise_gradient(gradient, data)
    else:
        function = pixel_sums.weight_gradient(gradient, data, (n, out // x, rows_, cols, x))
    space = make_space(task_of(name, function), TARGET)
    configs = sample(space, np.random.default_rng(0), 8)
    scripts = {space.schedule(config).mod.script() for config in configs}
    assert len(scripts) == len(configs)


def test_a_gradient_is_written_to_a_mark_and_read() -> None:
    gradient = CASES["groups"][0]
    assert WeightGradient.parse(gradient.detail()) == gradient
    assert Statistics.parse(Statistics((1, 2, 3, 4), True).detail()) == Statistics((1, 2, 3, 4), True)


def test_what_is_no_sum_over_pixels_is_refused() -> None:
    with pytest.raises(SpaceError, match="roles"):
        PixelSumsSpace(task_of("rows", rows.softmax((4, 16), TARGET.lanes, safe=False)), TARGET)
