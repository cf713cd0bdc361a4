"""The space of functions over windows: right programs for pooling and means, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.kernels import call_kernel
from tests.models import TARGET
from tests.targets import LANES, lane_target, require
from tilewright.errors import SpaceError
from tilewright.ops.registry import make_space
from tilewright.ops.window.space import WindowSpace
from tilewright.space.configs import sample
from tilewright.space.recorded import check_recorded
from tilewright.task import Task

Array = np.ndarray[Any, Any]


def make_task(outputs: Callable[[Any], Any], shape: tuple[int, ...]) -> Task:
    import tvm
    from tvm import te

    x = te.placeholder(shape, name="x")
    function = te.create_prim_func([x, outputs(x)]).with_attr("global_symbol", "main")
    return Task("key", "window", "auto", 1e6, tvm.ir.save_json(tvm.ir.IRModule({"main": function})))


def run(task: Task, x: Array, shape: tuple[int, ...], count: int = 12) -> list[Array]:
    """The results of the default and of random configs."""
    import tvm

    require(TARGET)
    space = make_space(task, TARGET)
    assert isinstance(space, WindowSpace)
    results = []
    for config in [space.default(), *sample(space, np.random.default_rng(0), count)]:
        out = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
        call_kernel(space.schedule(config).mod, TARGET, tvm.runtime.tensor(x), out)
        results.append(np.asarray(out.numpy()))
    return results


def windows(x: Array, size: int, stride: int, pad: int, fill: float) -> Array:
    """``(n, c, h, w, 8, size, size)``: the windows of an input in blocks of 8 channels."""
    wide = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    found = np.lib.stride_tricks.sliding_window_view(wide, (size, size), axis=(2, 3))
    return found[:, :, ::stride, ::stride]


@pytest.mark.parametrize(("size", "stride", "pad", "image"), [(3, 2, 0, 13), (3, 1, 1, 7), (2, 2, 0, 8), (3, 2, 1, 12)])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling(kind: str, size: int, stride: int, pad: int, image: int) -> None:
    from tvm import topi

    shape = (1, 3, image, image, 8)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    sizes, strides, pads = (size, size), (stride, stride), (pad, pad, pad, pad)

    def pool(t: Any) -> Any:
        return topi.nn.pool2d(t, sizes, strides, (1, 1), pads, kind, layout="NCHW8c", count_include_pad=True)

    fill = -np.inf if kind == "max" else 0.0
    found = windows(x, size, stride, pad, fill)
    want = found.max((-1, -2)) if kind == "max" else found.mean((-1, -2))
    for result in run(make_task(pool, shape), x, want.shape):
        np.testing.assert_allclose(result, want, rtol=1e-5, atol=1e-6)


def test_a_maximum_of_minus_infinity_stays_so() -> None:
    from tilewright.ops.window import Windows, max_pool

    x = np.random.default_rng(0).standard_normal((1, 2, 9, 9, 8)).astype(np.float32)
    x[:, 0] = -np.inf
    geometry = Windows((2, 3), (3, 3), (2, 2), (1, 1), (1, 1), (5, 5))
    want = windows(x, 3, 2, 1, -np.inf).max((-1, -2))
    task = make_task(lambda t: max_pool(t, geometry), x.shape)
    check_recorded(task)  # an infinity is no number of JSON
    for result in run(task, x, want.shape):
        np.testing.assert_array_equal(result, want)


def test_a_mean_over_the_image() -> None:
    from tvm import topi

    x = np.random.default_rng(0).standard_normal((1, 5, 7, 7, 8)).astype(np.float32)
    task = make_task(lambda t: topi.divide(topi.sum(t, axis=(2, 3), keepdims=True), 49.0), x.shape)
    want = x.mean((2, 3), keepdims=True)
    for result in run(task, x, want.shape):
        np.testing.assert_allclose(result, want, rtol=1e-5, atol=1e-6)


def test_a_window_over_channels() -> None:
    """What LRN adds up: vectors lie across the window, of a width that is no multiple of the lanes."""
    from tvm import topi

    x = np.random.default_rng(0).standard_normal((1, 1, 12, 5, 22)).astype(np.float32)

    def squares(t: Any) -> Any:
        wide = topi.nn.pad(topi.multiply(t, t), (0, 0, 2, 0, 0), (0, 0, 2, 0, 0))
        return topi.nn.pool3d(wide, (5, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0, 0, 0, 0), "avg", layout="NCDHW")

    want = np.lib.stride_tricks.sliding_window_view(np.pad(x * x, ((0, 0),) * 2 + ((2, 2),) + ((0, 0),) * 2), 5, axis=2)
    for result in run(make_task(squares, x.shape), x, x.shape):
        np.testing.assert_allclose(result, want.mean(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lanes", LANES)
def test_the_same_knobs_in_every_process_and_a_default_that_fits(lanes: int) -> None:
    from tvm import topi

    def pool(t: Any) -> Any:
        return topi.nn.pool2d(t, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "max", layout="NCHW8c")

    first, second = (make_space(make_task(pool, (1, 64, 56, 56, 8)), lane_target(lanes)) for _ in range(2))
    assert first.knobs == second.knobs
    assert first.valid(first.default()[None]).all()
    parallel, pad, tile, vector, unroll = first.default()
    assert (parallel, pad, unroll) == (1, 0, 1)
    assert first.knobs[2].choices[tile] == (4,)
    assert first.knobs[3].choices[vector] == (min(lanes, 8),)
    with pytest.raises(SpaceError, match="has indices 0 to"):
        first.schedule(np.full(5, 100, dtype=np.int32))
    with pytest.raises(SpaceError, match="closed form"):
        first.loop_nest(first.default()[None])


@pytest.mark.parametrize(
    ("width", "lanes", "vector"),
    [
        (28, 16, 14),  # 28 lanes would take two registers
        (27, 16, 9),
        (22, 8, 11),  # none fits: the shortest
        (27, 4, 9),
    ],
)
def test_the_default_has_the_longest_vectors_that_fit_a_register(width: int, lanes: int, vector: int) -> None:
    from tvm import topi

    def pool(t: Any) -> Any:
        return topi.nn.pool3d(t, (5, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0, 0, 0, 0), "avg", layout="NCDHW")

    space = WindowSpace(make_task(pool, (1, 1, 12, 8, width)), lane_target(lanes))
    _, _, tile, chosen, _ = space.default()
    assert space.knobs[3].choices[chosen] == (vector,)
    assert space.knobs[2].choices[tile] == ((4,) if vector <= lanes else (1,))


@pytest.mark.parametrize(
    ("outputs", "shape"),
    [
        (lambda topi, t: topi.nn.relu(t), (1, 2, 4, 4, 8)),
        (lambda topi, t: topi.sum(t, axis=-1), (2, 4, 8, 8)),  # elements of one result lie side by side
        (lambda topi, t: topi.sum(t, axis=1), (4, 8, 8)),  # no rows
        (lambda topi, t: topi.nn.pool2d(t, (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), "max", layout="NCHW"), (1, 2, 6, 6)),
        (lambda topi, t: topi.nn.softmax(t, axis=1), (1, 4, 4, 8)),
    ],
)
def test_what_has_no_windows_is_refused(outputs: Any, shape: tuple[int, ...]) -> None:
    from tvm import topi

    task = make_task(lambda t: outputs(topi, t), shape)
    with pytest.raises(SpaceError):
        WindowSpace(task, TARGET)
    assert make_space(task, TARGET).template in ("auto/1", "elementwise/1")
