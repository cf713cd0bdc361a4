"""What ``bench.byte_kernels`` times as the products of a convolution alone."""

from __future__ import annotations

import pytest

from bench.byte_kernels import products_alone
from tilewright.graph.tasks import task_of
from tilewright.measure.arguments import parameters_of
from tilewright.ops.contraction.quantised import byte_conv2d
from tilewright.space.module import task_module


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 2, (1, 1, 1, 1)), (1, 1, (0, 0, 0, 0)), (7, 2, (3, 3, 3, 3))]
)
def test_products_have_the_shapes_of_the_convolution(
    kernel: int, stride: int, padding: tuple[int, int, int, int]
) -> None:
    weight = (2, 1, kernel, kernel, 4, 16, 4)
    function = byte_conv2d((1, 1, 12, 12, 16), weight, (stride, stride), padding, (1, 1), 0)
    task = task_of("byte_conv2d", function, (1,))
    found, wanted = (parameters_of(task_module(one)["main"]) for one in (products_alone(task), task))
    assert found == wanted
