"""Depthwise convolutions: every program is right, for windows of all kinds, and others are left to other templates."""

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
from tilewright.ops.contraction.quantised import byte_depthwise_conv2d
from tilewright.ops.depthwise import DepthwiseSpace, DepthwiseTemplate
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.recorded import check_recorded
from tilewright.space.space import PLAIN_CODE, name_instruction
from tilewright.target import Target

Array = np.ndarray[Any, Any]
_DRAWN = settings(max_examples=9, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def convolve(x: Array, w: Array, stride: tuple[int, int], padding: tuple[int, ...], dilation: tuple[int, int]) -> Array:
    """In float64, of ``(n, c, h, w, lanes)`` and ``(c, kh, kw, lanes)``."""
    top, left, bottom, right = padding
    wide = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right), (0, 0)))
    kernel = w.shape[1:3]
    rows, cols = ((wide.shape[2 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2))
    out = np.zeros((*x.shape[:2], rows, cols, x.shape[4]))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            y, z = i * dilation[0], j * dilation[1]
            part = wide[:, :, y : y + stride[0] * rows : stride[0], z : z + stride[1] * cols : stride[1]]
            out += part * w[None, :, i, j][:, :, None, None]
    return out


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
    size, kernel, stride, dilation = pair(1, 19), pair(1, 5), pair(1, 3), pair(1, 2)
    padding = tuple(data.draw(st.lists(st.integers(0, 4), min_size=4, max_size=4)))
    x = data.draw(st.sampled_from([lanes, lanes - 1, max(2, lanes // 2)]))
    for axis in range(2):
        assume(size[axis] + padding[axis] + padding[axis + 2] > dilation[axis] * (kernel[axis] - 1))
    last = data.draw(st.booleans())
    shape = (n, 1, *size, blocks * x) if last else (n, blocks, *size, x)
    function = depthwise_conv2d(shape, (blocks, *kernel, x), stride, padding, dilation)
    task = task_of("depthwise_conv2d", function)
    space = make_space(task, target)
    assert isinstance(space, DepthwiseSpace)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((n, blocks, *size, x)).astype(np.float32)
    weight = rng.standard_normal((blocks, *kernel, x)).astype(np.float32)
    want = convolve(image, weight, stride, padding, dilation)
    if last:
        image, want = (np.moveaxis(a, 1, 3).reshape(n, 1, *a.shape[2:4], -1) for a in (image, want))
    for config in [space.default(), *sample(space, rng, 1)]:
        out = tvm.runtime.tensor(np.full(want.shape, np.nan, np.float32))
        operand = tvm.runtime.tensor(np.ascontiguousarray(image))
        call_kernel(space.schedule(config).mod, target, operand, tvm.runtime.tensor(weight), out)
        np.testing.assert_allclose(out.numpy(), want, rtol=1e-4, atol=1e-4, err_msg=str(config))


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("together", [4, 2], ids=["quads", "pairs"])
@settings(_DRAWN, max_examples=5)
@given(data=st.data())
def test_sums_of_bytes_are_exact(together: int, lanes: int, data: st.DataObject) -> None:
    """Also where the number around the image is not 0, and windows lie beside it."""
    import tvm

    def pair(least: int, most: int) -> tuple[int, int]:
        a, b = data.draw(st.lists(st.integers(least, most), min_size=2, max_size=2))
        return a, b

    target = lane_target(lanes)
    require(target)
    size, kernel, stride, dilation = pair(1, 13), pair(1, 5), pair(1, 3), pair(1, 2)
    padding = tuple(data.draw(st.lists(st.integers(0, 6), min_size=4, max_size=4)))
    zero = data.draw(st.sampled_from([0, 131]))
    for axis in range(2):
        assume(size[axis] + padding[axis] + padding[axis + 2] > dilation[axis] * (kernel[axis] - 1))
    shape, groups = (1, 2, *size, lanes), -(-kernel[0] // together)
    rng = np.random.default_rng(0)
    image = rng.choice([0, 1, 254, 255], shape).astype(np.uint8)
    numbers = rng.choice([-128, -127, 0, 127], (2, *kernel, lanes))
    rows = np.pad(numbers, ((0, 0), (0, groups * together - kernel[0]), (0, 0), (0, 0)))
    weight = rows.reshape(2, groups, together, kernel[1], lanes).transpose(0, 1, 3, 4, 2)
    weight = np.ascontiguousarray(weight, np.int8 if together == 4 else np.int16)
    function = byte_depthwise_conv2d(shape, weight.shape, kernel[0], stride, padding, dilation, zero)
    space = make_space(task_of("depthwise_conv2d", function), target)
    want = convolve(image.astype(np.float64) - zero, numbers, stride, padding, dilation)
    want += zero * numbers.sum((1, 2))[None, :, None, None]
    for config in [space.default(), *sample(space, rng, 1)]:
        out = tvm.runtime.tensor(np.full(want.shape, 77, np.int32))
        call_kernel(space.schedule(config).mod, target, tvm.runtime.tensor(image), tvm.runtime.tensor(weight), out)
        assert np.array_equal(out.numpy(), want), (space.template, str(config))


def test_what_the_template_does_not_serve() -> None:
    """Kernels of 1x1, and vectors longer than a register, have the loops of other contractions."""
    last = task_of("last", depthwise_conv2d((1, 1, 6, 6, 32), (2, 3, 3, 16), (1, 1), (1, 1, 1, 1), (1, 1)))
    point = task_of("point", depthwise_conv2d((1, 2, 6, 6, 16), (2, 1, 1, 16), (1, 1), (0, 0, 0, 0), (1, 1)))
    wide = task_of("wide", depthwise_conv2d((1, 2, 6, 6, 16), (2, 3, 3, 16), (1, 1), (1, 1, 1, 1), (1, 1)))
    template = DepthwiseTemplate()
    assert template.serves(last, lane_target(16))
    assert not template.serves(point, lane_target(16))
    assert template.serves(wide, lane_target(16))
    assert not template.serves(wide, lane_target(8))
    for task in (last, wide, point):
        assert make_space(task, lane_target(8)).template.startswith("contraction")


@pytest.mark.parametrize("rows", [1, 6])
def test_one_chunk_has_one_program(rows: int) -> None:
    """A parallel loop of one iteration is a serial one."""
    data = (1, 1, rows, 4096, 16)
    task = task_of("d", depthwise_conv2d(data, (1, 1, 5, 16), (1, 1), (0, 2, 0, 2), (1, 1)))
    space = make_space(task, lane_target(16))
    names = [knob.name for knob in space.knobs]
    for config in [space.default(), *sample(space, np.random.default_rng(0), 20)]:
        chosen = {name: knob.choices[i][0] for name, knob, i in zip(names, space.knobs, config, strict=True)}
        assert chosen["parallel"] == 0 or chosen["parts"] > 1
    assert (space.default()[names.index("parallel")] > 0) == (rows > 1)


def test_a_recorded_function_is_accepted() -> None:
    check_recorded(task_of("d", depthwise_conv2d((1, 2, 6, 6, 16), (2, 3, 3, 16), (1, 1), (1, 1, 1, 1), (1, 1))))


def test_kernels_of_bytes_name_their_instruction() -> None:
    function = byte_depthwise_conv2d((1, 1, 6, 6, 8), (1, 2, 3, 8, 2), 3, (1, 1), (1, 1, 1, 1), (1, 1), 0)
    task = task_of("depthwise_conv2d", function)
    assert name_instruction(make_space(task, lane_target(8))) == "vpmaddwd"
    assert name_instruction(make_space(task, Target.parse("llvm:cortex-a53:aarch64-linux-gnu"))) == PLAIN_CODE
    plain = depthwise_conv2d((1, 1, 6, 6, 8), (1, 3, 3, 8), (1, 1), (1, 1, 1, 1), (1, 1))
    assert name_instruction(make_space(task_of("depthwise_conv2d", plain), lane_target(8))) == ""
