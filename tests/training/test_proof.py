"""Whether the results of a part are right, of which some are nothing but rounding errors."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.models import runs
from tests.training.models import in_float64, step, torch, worst_gradient
from tilewright.executable.program import PlanProgram
from tilewright.frontend.torch.part import Layout
from tilewright.training import optimize, report
from tilewright.training.proof import Comparison, compare, is_rounding
from tilewright.training.results import TOLERANCE

nn = torch.nn


def norm_step(x: Any, weight: Any, bias: Any, gamma: Any, dy: Any) -> tuple[Any, ...]:
    """A convolution and a batch norm: result, mean, and the gradients of the scale and of the bias, which is 0."""
    aten = torch.ops.aten
    y = aten.convolution(x, weight, bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    z, mean, deviation = aten.native_batch_norm(y, gamma, None, None, None, True, 0.1, 1e-5)
    kept = (mean, deviation, True, 1e-5, [True, True, False])
    dx, dgamma, _ = aten.native_batch_norm_backward(dy, y, gamma, None, None, *kept)
    return z, mean, dgamma, dx.sum((0, 2, 3)) + torch.full((8,), 0.0, dtype=torch.float32)


@pytest.fixture(scope="module")
def part() -> tuple[Any, Sequence[Any], Sequence[Any]]:
    """A part, what it takes, and its results in float64, rounded."""
    from torch.fx.experimental.proxy_tensor import make_fx

    torch.manual_seed(0)
    tensors = [torch.randn(*shape) for shape in ((4, 3, 10, 10), (8, 3, 3, 3), (8,), (8,), (4, 8, 10, 10))]
    module = make_fx(norm_step)(*tensors)
    return module, tensors, [result.float() for result in norm_step(*(t.double() for t in tensors))]


def judge(module: Any, tensors: Sequence[Any], found: Sequence[Any]) -> tuple[Comparison, bool]:
    """The comparison of results with PyTorch's, and whether they are right."""
    outputs = [Layout.of(result) for result in module(*tensors)]
    comparison = compare(module, outputs, tensors, found)
    return comparison, is_rounding(module, outputs, tensors, found, comparison)


def test_rounding_errors_are_accepted(part: tuple[Any, Sequence[Any], Sequence[Any]]) -> None:
    module, tensors, exact = part
    comparison, right = judge(module, tensors, exact)
    assert comparison.seconds > 0.0
    assert comparison.worst > TOLERANCE  # the gradient of the bias, which is 0
    assert list(comparison.doubtful) == [3]
    assert right
    theirs = module(*tensors)
    assert judge(module, tensors, theirs)[1]
    assert judge(module, tensors, [*theirs[:3], -2 * theirs[3]])[1]


def test_results_may_be_views_with_gaps_and_single_numbers() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def views(x: Any, y: Any) -> tuple[Any, ...]:
        aten = torch.ops.aten
        part = aten.slice.Tensor(x, 1, 0, 8, 2)
        return (
            part,
            aten.expand.default(y, [4, 4]),
            aten.mean.default(part) + aten.sum.default(y),
            aten.mul.Tensor(part, 2),
        )

    tensors = [torch.randn(4, 8), torch.randn(4, 1)]
    module = make_fx(views)(*tensors)
    theirs = module(*tensors)
    comparison, right = judge(module, tensors, theirs)
    assert (comparison.worst, comparison.finite, right) == (0.0, True, True)
    for place in range(4):
        found = [result.clone() for result in theirs]
        found[place].view(-1)[0] += 1.0
        assert list(judge(module, tensors, found)[0].doubtful) == [place]
        assert not judge(module, tensors, found)[1]


def test_infinite_results_are_not_compared(part: tuple[Any, Sequence[Any], Sequence[Any]]) -> None:
    module, (x, *others), _ = part
    assert judge(module, [x, *others], module(x, *others))[0].finite
    x = x.index_fill(0, torch.tensor([0]), float("inf"))
    found = module(x, *others)
    comparison, _ = judge(module, [x, *others], found)
    assert not comparison.finite
    assert comparison.worst <= TOLERANCE


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    "damage",
    [
        lambda result: result + 0.01,
        lambda result: result.index_fill(0, torch.tensor([1]), 7.0),
        lambda result: result.index_fill(0, torch.tensor([0]), float("nan")),
    ],
    ids=["all", "one", "nan"],
)
def test_what_is_wrong_is_refused(
    part: tuple[Any, Sequence[Any], Sequence[Any]], place: int, damage: Callable[[Any], Any]
) -> None:
    module, tensors, exact = part
    found = list(exact)
    found[place] = damage(found[place])
    comparison, right = judge(module, tensors, found)
    assert not comparison.worst <= TOLERANCE
    assert not right


@runs
@pytest.mark.usefixtures("fresh")
def test_a_wrong_kernel_never_trains(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    run = PlanProgram.profile_in_place

    def run_wrongly(program: PlanProgram, addresses: Sequence[int]) -> Any:
        """The last result has one wrong number."""
        seconds = run(program, addresses)
        ctypes.cast(addresses[-1], ctypes.POINTER(ctypes.c_float))[0] *= 1.001
        ctypes.cast(addresses[-1], ctypes.POINTER(ctypes.c_float))[0] += 0.001
        return seconds

    monkeypatch.setattr(PlanProgram, "profile_in_place", run_wrongly)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    exact = in_float64(model)
    x = torch.randn(4, 8)
    with caplog.at_level(logging.WARNING, "tilewright.training"):
        step(optimize(model, mode="now", budget="1s"), x)
    step(exact, x.double())
    assert worst_gradient(model, exact) < 1e-4
    parts = [part for graph in report(model).graphs for part in graph.parts]
    assert [(part.state, "differ from PyTorch's" in part.reason) for part in parts] == [("left", True)] * 2
