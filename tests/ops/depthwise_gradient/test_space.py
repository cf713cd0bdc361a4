"""Gradients of the data of depthwise convolutions: every program is right, for windows of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.kernels import call_kernel
from tests.targets import LANES, lane_target, require
from tilewright.graph.tasks import task_of
from tilewright.ops.contraction import depthwise_conv2d
from tilewright.ops.depthwise_gradient import (
    DataGradient,
    DepthwiseGradientSpace,
    DepthwiseGradientTemplate,
    data_gradient,
)
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.recorded import check_recorded

Array = np.ndarray[Any, Any]
_DRAWN = settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def exact(form: DataGradient, dy: Array, w: Array) -> Array:
    """In float64, of ``(n, c, rows, columns, lanes)`` and ``(c, kh, kw, lanes)``."""
    (height, width), (down, across), (top, left) = form.data[2:], form.stride, form.padding
    n, c, rows, columns, lanes = dy.shape
    kh, kw = form.kernel
    wide = np.zeros((n, c, down * rows + kh + height + top, across * columns + kw + width + left, lanes))
    for y in range(kh):
        for x in range(kw):
            part = wide[:, :, y : y + down * rows : down, x : x + across * columns : across]
            part += dy.astype(np.float64) * w[None, :, y, x][:, :, None, None]
    return wide[:, :, top : top + height, left : left + width]


@pytest.mark.parametrize("lanes", LANES)
@_DRAWN
@given(data=st.data())
def test_windows_of_all_kinds(lanes: int, data: st.DataObject) -> None:
    import tvm

    def pair(least: int, most: int) -> tuple[int, int]:
        a, b = data.draw(st.lists(st.integers(least, most), min_size=2, max_size=2))
        return a, b

    target = lane_target(lanes)
    require(target)
    n, blocks = pair(1, 2)
    size, kernel, stride, padding, behind = pair(1, 19), pair(1, 5), pair(1, 3), pair(0, 4), pair(0, 4)
    pixels = [(size[d] + padding[d] + behind[d] - kernel[d]) // stride[d] + 1 for d in range(2)]
    assume(min(pixels) > 0)
    x = data.draw(st.sampled_from([lanes, lanes - 1, max(2, lanes // 2)]))
    form = DataGradient((n, blocks * x, *size), (pixels[0], pixels[1]), kernel, stride, padding)
    task = task_of("gradient", data_gradient(form, (n, blocks, *pixels, x)))
    check_recorded(task)
    space = make_space(task, target)
    assert isinstance(space, DepthwiseGradientSpace)
    rng = np.random.default_rng(0)
    dy = rng.standard_normal((n, blocks, *pixels, x)).astype(np.float32)
    weight = rng.standard_normal((blocks, *kernel, x)).astype(np.float32)
    want = exact(form, dy, weight)
    for config in [space.default(), *sample(space, rng, 1)]:
        out = tvm.runtime.tensor(np.full(want.shape, np.nan, np.float32))
        call_kernel(space.schedule(config).mod, target, tvm.runtime.tensor(dy), tvm.runtime.tensor(weight), out)
        np.testing.assert_allclose(out.numpy(), want, rtol=1e-4, atol=1e-4, err_msg=str(config))


def test_what_the_template_does_not_serve() -> None:
    form = DataGradient((1, 16, 6, 6), (3, 3), (3, 3), (2, 2), (1, 1))
    wide = task_of("wide", data_gradient(form, (1, 1, 3, 3, 16)))
    other = task_of("other", depthwise_conv2d((1, 1, 6, 6, 16), (1, 3, 3, 16), (1, 1), (1, 1, 1, 1), (1, 1)))
    template = DepthwiseGradientTemplate()
    assert template.serves(wide, lane_target(16))
    assert not template.serves(wide, lane_target(8))
    assert not template.serves(other, lane_target(16))
