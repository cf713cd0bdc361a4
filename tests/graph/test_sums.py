"""The statistics of a batch norm are summed by the convolution before it, and are those of float64."""

from __future__ import annotations

from typing import Any

import pytest

from tests.graph.test_gradients import all_agree, backward
from tests.models import TARGET

torch = pytest.importorskip("torch")


def normalise(y: Any, weight: Any, bias: Any) -> Any:
    """A batch norm in training, and its statistics."""
    zeros = torch.zeros_like(weight)
    found = torch.ops.aten._native_batch_norm_legit_functional(y, weight, bias, zeros, zeros + 1, True, 0.1, 1e-5)
    return torch.relu(found[0]), found[1], found[2]


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (3, 1, 16), (3, 2, 16)])
def test_statistics_of_a_convolution_are_its_second_result(kernel: int, stride: int, groups: int) -> None:
    def forward(x: Any, w: Any, weight: Any, bias: Any) -> Any:
        pad = kernel // 2
        y = torch.ops.aten.convolution(x, w, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], groups)
        return (y, *normalise(y, weight, bias))

    torch.manual_seed(0)
    arguments = [torch.randn(3, 16, 9, 7) + 2, torch.randn(16, 16 // groups, kernel, kernel)]
    extraction = all_agree(forward, [*arguments, torch.rand(16) + 0.5, torch.randn(16)])
    assert [use.task.kind for use in extraction.uses].count("summed") == 1
    assert not any(use.task.kind == "pixel_sums" for use in extraction.uses)


@pytest.mark.parametrize("algorithm", ["direct", "winograd4"])
def test_gradient_of_a_norm_is_summed_where_it_is_computed(algorithm: Any) -> None:
    def gradients(dy: Any, r: Any, w: Any, x: Any, weight: Any, mean: Any, deviation: Any) -> Any:
        other = torch.ops.aten.convolution(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # brings x into blocks
        dr = backward((1, 1), (1, 1), (1, 1), 1)(dy, r, w)[0]
        d = torch.ops.aten.threshold_backward(dr, r, 0)
        return other, *torch.ops.aten.native_batch_norm_backward(
            d, x, weight, mean, deviation, mean, deviation, True, 1e-5, [True, True, True]
        )

    torch.manual_seed(0)
    images = [torch.randn(2, 16, 7, 9) for _ in range(2)]
    vectors = [torch.rand(16) + 0.5 for _ in range(3)]
    arguments = [*images, torch.randn(16, 16, 3, 3), torch.randn(2, 16, 7, 9), *vectors]
    extraction = all_agree(gradients, arguments, algorithm=algorithm)
    (summed,) = (use.task for use in extraction.uses if use.task.kind == "summed")
    assert ("inverse" in summed.name) == (algorithm != "direct")


def test_channels_with_gaps_are_summed_alone() -> None:
    def forward(x: Any, w: Any, weight: Any, bias: Any) -> Any:
        y = torch.ops.aten.convolution(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        return normalise(y, weight, bias)

    torch.manual_seed(0)
    channels = TARGET.lanes + 1
    arguments = [torch.randn(3, 16, 5, 7), torch.randn(channels, 16, 1, 1)]
    extraction = all_agree(forward, [*arguments, torch.rand(channels) + 0.5, torch.randn(channels)])
    assert not any(use.task.kind == "summed" for use in extraction.uses)
