"""What the kernels of a step are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from bench._training_tasks import (
    DATA,
    ELEMENTWISE,
    FORWARD,
    LAYOUT,
    NORM,
    OTHER,
    PRODUCT,
    WEIGHTS,
    Layer,
    Layers,
    find_layers,
    find_purposes,
)
from tilewright.executable.plan import Call, Plan, Tensor
from tilewright.frontend.torch.part import Layout
from tilewright.task import Task

LAYER = Layer("3x3 16->32 8x8", 1e6, convolution=True)


def trace(function: Any, *tensors: Any) -> tuple[Any, list[Layout]]:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function, tracing_mode="fake")(*tensors), [Layout.of(tensor) for tensor in tensors]


def follow(
    calls: Sequence[tuple[str, str, str]], inputs: int, results: Sequence[str], layers: Layers, backward: bool
) -> list[tuple[str, Layer | None]]:
    """The kinds and layers of calls, each with its name, what it reads and what it writes: values are letters."""
    values = sorted({letter for _, read, written in calls for letter in read + written} | set(results))
    tensors = tuple(Tensor("arena", 64 * place, (4,), "float32") for place in range(len(values)))
    numbers = {value: number for number, value in enumerate(values)}
    made = tuple(
        Call(name.split()[0], tuple(numbers[v] for v in read + written), len(written)) for name, read, written in calls
    )
    plan = Plan(
        64 * len(values), tensors, made, tuple(numbers[chr(ord("a") + i)] for i in range(inputs)),
        tuple(numbers[r] for r in results),
    )  # fmt: skip
    tasks = [Task("", name, _kind(name), 1.0, "") for name, _, _ in calls]
    return [(purpose.kind, purpose.layer) for purpose in find_purposes(plan, tasks, layers, backward)]


def _kind(name: str) -> str:
    return "contraction" if name.startswith(("conv", "products", "batch")) else "auto"


def test_forward_layers_are_known_by_their_weights() -> None:
    def forward(x: Any, w: Any, d: Any, m: Any, b: Any) -> Any:
        y = torch.ops.aten.convolution(x, w, None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1)
        y = torch.ops.aten.convolution(y, d, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 8)
        return (torch.ops.aten.addmm(b, y.mean((2, 3)), m.t()),)

    tensors = [torch.zeros(s) for s in ((2, 4, 8, 8), (8, 4, 3, 3), (8, 1, 3, 3), (5, 8), (5,))]
    layers = find_layers(*trace(forward, *tensors))
    assert layers.written == {}
    assert {place: (layer.name, layer.flop) for place, layer in layers.read.items()} == {
        1: ("3x3/2 4->8 8x8", 2 * 2 * 16 * 8 * 4 * 9),
        2: ("3x3 8->8 4x4, depthwise", 2 * 2 * 16 * 8 * 9),
        3: ("product 2x8 8x5", 2 * 2 * 8 * 5),
    }


def test_backward_layers_are_known_by_weights_and_their_gradients() -> None:
    def backward(dy: Any, x: Any, w: Any, dz: Any, z: Any, m: Any) -> Any:
        numbers = ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)
        found = torch.ops.aten.convolution_backward(dy, x, w, None, *numbers, [True, True, False])
        return found[0], found[1], dz.t() @ z, dz @ m

    tensors = [torch.zeros(s) for s in ((2, 8, 4, 4), (2, 4, 8, 8), (8, 4, 3, 3), (2, 5), (2, 8), (5, 8))]
    layers = find_layers(*trace(backward, *tensors))
    conv = ("3x3/2 4->8 8x8", 2 * 2 * 16 * 8 * 4 * 9)
    assert {place: (layer.name, layer.flop) for place, layer in layers.read.items()} == {
        2: conv,
        5: ("product 2x5 5x8", 2 * 2 * 5 * 8),
    }
    assert {place: (layer.name, layer.flop) for place, layer in layers.written.items()} == {
        1: conv,
        2: ("product 5x2 2x8", 2 * 2 * 5 * 8),
    }


def test_winograds_stages_belong_to_the_convolution_whose_weight_they_read() -> None:
    calls = [
        ("transpose 16x32", "b", "c"),
        ("transform 36x9", "c", "d"),
        ("winograd 2x1x8x8x16", "a", "e"),
        ("products 36x4", "ed", "f"),
        ("inverse_relu 36x4", "f", "g"),
        ("channel_statistics 2x1x8x8x16", "g", "h"),
        ("fused_multiply_add 2x1x8x8x16", "gh", "i"),
        ("max_pool2d 2x1x8x8x16", "i", "j"),
        ("transpose 2x1x4x4x16", "j", "k"),
        ("batch_matmul 4x4", "jk", "l"),
    ]
    kinds = follow(calls, 2, ["l"], Layers({1: LAYER}, {}), backward=False)
    assert kinds[:5] == [(FORWARD, LAYER)] * 5
    assert kinds[5:] == [(NORM, None), (ELEMENTWISE, None), (OTHER, None), (LAYOUT, None), (PRODUCT, None)]


def test_a_gradient_of_a_weight_is_followed_from_the_result() -> None:
    calls = [
        ("flip_transpose 16x32", "c", "d"),
        ("conv2d 2x1x8x8x16", "bd", "e"),
        ("winograd 2x1x8x8x16", "a", "f"),
        ("spread 2x1x8x8x16", "b", "g"),
        ("tile_sums 36x4", "fg", "h"),
        ("gather 36x4", "h", "f"),  # its memory is used again
        ("transpose 16x32", "f", "i"),
        ("threshold_gradient 2x1x8x8x16", "ea", "j"),
    ]
    kinds = follow(calls, 3, ["j", "i"], Layers({2: LAYER}, {1: LAYER}), backward=True)
    assert kinds == [(DATA, LAYER)] * 2 + [(WEIGHTS, LAYER)] * 5 + [(ELEMENTWISE, None)]
