"""The space of functions over rows: right programs for rows of any length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels import call_kernel
from tests.models import TARGET
from tests.targets import require
from tilewright.errors import SpaceError
from tilewright.ops import rows
from tilewright.ops.registry import make_space
from tilewright.ops.rows.space import RowsSpace
from tilewright.space.configs import sample
from tilewright.task import Task


def make_task(function: Any) -> Task:
    import tvm

    module = tvm.ir.IRModule({"main": function.with_attr("global_symbol", "main")})
    return Task("key", "rows", "rows", 1e6, tvm.ir.save_json(module))


def run(
    function: Any, arrays: list[np.ndarray[Any, Any]], count: int = 3, shape: tuple[int, ...] = ()
) -> list[np.ndarray[Any, Any]]:
    """The results of the default and of random configs, of the first array's shape if none is given."""
    import tvm

    require(TARGET)
    space = make_space(make_task(function), TARGET)
    assert isinstance(space, RowsSpace)
    results = []
    for config in [space.default(), *sample(space, np.random.default_rng(0), count)]:
        out = tvm.runtime.tensor(np.zeros(shape or arrays[0].shape, np.float32))
        arguments = [tvm.runtime.tensor(a) for a in arrays]
        call_kernel(space.schedule(config).mod, TARGET, *arguments, out)
        results.append(np.asarray(out.numpy()))
    return results


@pytest.mark.parametrize("shape", [(6, 8), (64, 128), (1, 1000), (3, 5, 197), (7, 37), (9, 1), (4, 3), (5, 12)])
def test_softmax(shape: tuple[int, ...]) -> None:
    x = 3 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    e = np.exp(x - x.max(-1, keepdims=True), dtype=np.float64)
    for result in run(rows.softmax(shape, TARGET.lanes, safe=False), [x]):
        np.testing.assert_allclose(result, e / e.sum(-1, keepdims=True), rtol=2e-6, atol=1e-30)


def test_rows_of_minus_infinity() -> None:
    x = np.full((4, 16), -np.inf, np.float32)
    x[1:, :3] = 0.5
    for safe in (True, False):
        for result in run(rows.softmax(x.shape, TARGET.lanes, safe), [x], 1):
            np.testing.assert_array_equal(result[0], 0.0 if safe else np.nan)
            np.testing.assert_allclose(result[1:, :3], 1 / 3, rtol=1e-6)
            np.testing.assert_array_equal(result[1:, 3:], 0.0)


def test_rows_without_a_softmax_are_zeros_if_it_is_finite() -> None:
    x = np.full((5, 40), -np.inf, np.float32)
    x[1:, :3] = 0.5
    x[2, 7], x[3, 1] = np.nan, np.inf
    for result in run(rows.softmax(x.shape, TARGET.lanes, safe=False, finite=True), [x], 1):
        np.testing.assert_array_equal(result[[0, 2, 3]], 0.0)
        np.testing.assert_allclose(result[[1, 4], :3], 1 / 3, rtol=1e-6)
        np.testing.assert_array_equal(result[[1, 4], 3:], 0.0)


@pytest.mark.parametrize("shape", [(6, 8), (128, 256), (1, 1000), (5, 100), (3, 2), (4, 15), (7, 96)])
def test_layer_norm(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    # A mean far from zero: the sum of squares alone would lose the variance.
    x = (rng.standard_normal(shape) + 1000).astype(np.float32)
    scale, shift = (rng.standard_normal(shape[-1]).astype(np.float32) for _ in range(2))
    centred = x - x.mean(-1, keepdims=True, dtype=np.float64)
    want = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + shift
    for result in run(rows.layer_norm(shape, TARGET.lanes, 1e-5), [x, scale, shift]):
        np.testing.assert_allclose(result, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(6, 8), (197, 192), (5, 3)])
def test_layer_norm_of_bytes(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(120, 255, shape).astype(np.uint8)
    x[0] = 255  # all are equal, and their squares as large as can be
    scale, shift = (rng.standard_normal(shape[-1]).astype(np.float32) for _ in range(2))
    wide = 0.02 * x.astype(np.float64)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5) * scale + shift
    given: list[np.ndarray[Any, Any]] = [x, np.asarray([0.02], np.float32), scale, shift]
    for result in run(rows.byte_layer_norm(shape, 1e-5), given, 2):
        np.testing.assert_allclose(result, want, rtol=1e-4, atol=1e-4)


def test_rows_that_no_chunks_divide_have_a_template_of_their_own() -> None:
    names = {}
    for count in (197, 196):
        space = make_space(make_task(rows.byte_layer_norm((count, 192), 1e-5)), TARGET)
        chunks = space.knobs[0].table[:, 0]
        names[count] = space.template
        assert chunks.max() <= 4 * 4 * TARGET.cores
    assert names == {197: "rows/4", 196: "rows/3"}


@pytest.mark.parametrize("shape", [(6, 8), (35, 192), (5, 100), (3, 3), (4, 15)])
def test_moments_and_gradient_of_a_layer_norm(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) + 100).astype(np.float32)
    dy, scale = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape[1]).astype(np.float32)
    wide = x.astype(np.float64)
    mean, inverse = wide.mean(1), 1 / np.sqrt(wide.var(1) + 1e-5)
    moments = np.stack([mean, inverse], 1)
    for result in run(rows.row_moments(shape, TARGET.lanes, 1e-5), [x], 2, (shape[0], 2)):
        np.testing.assert_allclose(result, moments, rtol=1e-3)
    normal, s = (wide - mean[:, None]) * inverse[:, None], dy * scale.astype(np.float64)
    want = (s - s.mean(1)[:, None] - normal * (s * normal).mean(1)[:, None]) * inverse[:, None]
    given = [dy, x, mean.astype(np.float32), inverse.astype(np.float32), scale]
    for result in run(rows.layer_norm_gradient(shape, TARGET.lanes), given, 2):
        np.testing.assert_allclose(result, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("shape", [(6, 8), (35, 197), (3, 2), (4, 15)])
def test_logarithms_of_sums_of_exponentials(shape: tuple[int, int]) -> None:
    x = 30 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x[0, 1:] = -np.inf
    want = np.logaddexp.reduce(x.astype(np.float64), axis=1)[:, None]
    for result in run(rows.log_sum_exp(shape, TARGET.lanes), [x], 2, (shape[0], 1)):
        np.testing.assert_allclose(result, want, rtol=1e-6, atol=1e-6)


def test_what_has_no_rows_is_refused() -> None:
    from tvm import te

    x = te.placeholder((4, 4), name="x")
    task = make_task(te.create_prim_func([x, te.compute((4, 4), lambda i, j: x[i, j] + 1.0, name="y")]))
    with pytest.raises(SpaceError):
        RowsSpace(task, TARGET)
    assert make_space(task, TARGET).template.startswith("auto")
    space = RowsSpace(make_task(rows.softmax((4, 16), TARGET.lanes, safe=False)), TARGET)
    with pytest.raises(SpaceError, match="has indices 0 to"):
        space.schedule(np.full(3, 100, dtype=np.int32))
    with pytest.raises(SpaceError, match="closed form"):
        space.loop_nest(space.default()[None])
