"""Layer norms in training and their gradients: every program gives the numbers of float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import call_kernel
from tests.targets import LANES, lane_target, require
from tilewright.errors import FormError
from tilewright.graph.tasks import task_of
from tilewright.ops.norms import NormGradient, NormSpace, TrainingNorm, norm_gradient, training_norm
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.recorded import check_recorded
from tilewright.target import Target

Array = NDArray[Any]


def run(form: TrainingNorm | NormGradient, operands: list[Array], target: Target) -> list[list[Array]]:
    """The results of the default and of two random configs."""
    import tvm

    require(target)
    task = task_of("norm", training_norm(form) if isinstance(form, TrainingNorm) else norm_gradient(form))
    check_recorded(task)
    space = make_space(task, target)
    assert isinstance(space, NormSpace)
    found = []
    for config in [space.default(), *sample(space, np.random.default_rng(0), 2)]:
        results = [tvm.runtime.tensor(np.full(s, np.nan, dtype=np.float32)) for s in form.results.values()]
        arguments = [tvm.runtime.tensor(np.ascontiguousarray(a, dtype=np.float32)) for a in operands]
        call_kernel(space.schedule(config).mod, target, *arguments, *results)
        found.append([result.numpy() for result in results])
    return found


def draw(rows: int, columns: int) -> tuple[Array, Array, Array, Array, Array]:
    """Data with a mean far from zero, its moments, and the normal data, in float64; and a scale."""
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((rows, columns)) + 30).astype(np.float32).astype(np.float64)
    mean, inverse = data.mean(1), 1 / np.sqrt(data.var(1) + 1e-5)
    return data, mean, inverse, (data - mean[:, None]) * inverse[:, None], rng.random(columns) + 0.5


@pytest.mark.parametrize("rows", [48, 20])  # vectors of 8 and 16 do not divide 20: plain loops
@pytest.mark.parametrize("lanes", LANES)
def test_norm_with_its_moments(lanes: int, rows: int) -> None:
    data, mean, inverse, normal, scale = draw(rows, 64)
    shift = np.linspace(-1, 1, 64)
    for out, moments in run(TrainingNorm(rows, 64, 1e-5), [data, scale, shift], lane_target(lanes)):
        np.testing.assert_allclose(out, normal * scale + shift, atol=2e-5)
        np.testing.assert_allclose(moments, np.stack([mean, inverse], 1), rtol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("lanes", LANES)
def test_gradient_with_its_sums(lanes: int, residual: bool) -> None:
    rows, columns = 48, 64
    data, mean, inverse, normal, scale = draw(rows, columns)
    dy, other = np.random.default_rng(1).standard_normal((2, rows, columns)).astype(np.float32).astype(np.float64)
    scaled = dy * scale
    dx = scaled - scaled.mean(1, keepdims=True) - normal * (scaled * normal).mean(1, keepdims=True)
    dx = dx * inverse[:, None] + (other if residual else 0)
    sums = np.stack([(dy * normal).sum(0), dy.sum(0)])
    operands = [dy, data, mean, inverse, scale, *([other] if residual else [])]
    for result, found in run(NormGradient(rows, columns, residual), operands, lane_target(lanes)):
        np.testing.assert_allclose(result, dx, atol=1e-5)
        np.testing.assert_allclose(found, sums, atol=1e-4)


@pytest.mark.parametrize("detail", ["", "{}", '{"columns": 1, "epsilon": 1, "rows": true}'])
def test_what_describes_no_norm_is_refused(detail: str) -> None:
    with pytest.raises(FormError, match="norm"):
        TrainingNorm.parse(detail)
    with pytest.raises(FormError, match="norm"):
        NormGradient.parse(detail)
    for form in (TrainingNorm(4, 8, 1e-6), NormGradient(4, 8, residual=True)):
        assert type(form).parse(form.detail) == form
