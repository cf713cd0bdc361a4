"""The gradient of a norm of large images is summed for the weights before it by the function that computes it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.graph.test_gradients import all_agree, backward

torch = pytest.importorskip("torch")


def bring_into_blocks(image: Any, weight: Any) -> Any:
    """A convolution, whose result lies in blocks."""
    return torch.ops.aten.convolution(image, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)


@pytest.mark.parametrize(
    ("kernel", "size", "first", "joined"),
    [(1, 264, False, True), (1, 8, False, False), (3, 264, True, True)],
    ids=["1x1", "small", "first layer"],
)
def test_gradients_of_a_norm_and_of_weights_are_one_function(kernel: int, size: int, first: bool, joined: bool) -> None:
    def gradients(dy: Any, y: Any, x: Any, w: Any, v: Any, weight: Any, mean: Any, deviation: Any) -> Any:
        dy, y, x = (bring_into_blocks(t, v) for t in (dy, y, x))
        d, *sums = torch.ops.aten.native_batch_norm_backward(
            dy, y, weight, mean, deviation, mean, deviation, True, 1e-5, [True, True, True]
        )
        found = backward((1, 1), (kernel // 2,) * 2, (1, 1), 1)(d, x, w)
        return *sums, *(found[1:] if first else found)

    torch.manual_seed(0)
    images = [torch.randn(2, 16, size, size) for _ in range(3)]
    weights = [torch.randn(16, 16, kernel, kernel), torch.randn(16, 16, 1, 1)]
    extraction = all_agree(gradients, [*images, *weights, *(torch.rand(16) + 0.5 for _ in range(3))], draws=1)
    assert [use.task.kind for use in extraction.uses].count("computed_sums") == joined
    assert any(use.task.name.startswith("weight_gradient") for use in extraction.uses) != joined
