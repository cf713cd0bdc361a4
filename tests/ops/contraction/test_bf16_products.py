"""Products of bfloat16 numbers: the instruction of each target, and results of the same programs in plain code."""

from __future__ import annotations

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import assembly, call_kernel
from tests.targets import LANES, lane_target, require
from tilewright.graph.tasks import task_of
from tilewright.ops.contraction.bf16 import bf16_conv2d, bf16_dense, round_to_bf16
from tilewright.ops.contraction.dot_products import find_bf16_product
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.target import Target

#: Numbers at which rounding is decided: halfway to an even one and to an odd one, beside these, and beyond all others.
EDGES = np.asarray(
    [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x80000000, 0x00018000],
    np.uint32,
).view(np.float32)


def widen(bits: NDArray[np.uint16]) -> NDArray[np.float64]:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@pytest.mark.parametrize(
    ("text", "lanes", "pattern"),
    [
        ("llvm:sapphirerapids:x86_64-linux-gnu", 16, r"vdpbf16ps\s.*%zmm"),
        ("llvm:sapphirerapids:x86_64-linux-gnu", 8, r"vdpbf16ps\s.*%ymm"),
        ("llvm:znver4:x86_64-linux-gnu", 16, r"vdpbf16ps\s.*%zmm"),
        ("llvm:znver4:x86_64-linux-gnu", 4, r"vdpbf16ps\s.*%xmm"),
        ("llvm:neoverse-v1:aarch64-linux-gnu", 4, r"bfdot\s+v\d+\.4s"),
    ],
)
def test_each_target_has_its_instruction(text: str, lanes: int, pattern: str) -> None:
    target = Target.parse(text)
    dot = find_bf16_product(target, lanes)
    assert dot is not None
    assert dot.name in pattern
    for function in (
        bf16_dense(4, (2, 8, lanes, 2), 2 * lanes),
        bf16_conv2d((1, 2, 9, 13, 8), (2, 2, 3, 3, 4, lanes, 2), (1, 1), (1, 1, 1, 1), (1, 1)),
    ):
        space = make_space(task_of("product", function, (1,)), target)
        assert space.template.startswith("contraction/")
        code = assembly(space.schedule(space.default()).mod, target)
        assert re.search(pattern, code)
        assert "tilewright_" not in code  # the function around the instruction is gone


@pytest.mark.parametrize("text", ["llvm:cascadelake:x86_64-linux-gnu", "llvm:haswell:x86_64-linux-gnu"])
def test_other_targets_have_plain_code(text: str) -> None:
    target = Target.parse(text)
    assert find_bf16_product(target, target.lanes) is None
    assert find_bf16_product(Target.parse("llvm:cortex-a76:aarch64-linux-gnu"), 4) is None


def test_a_hidden_extension_is_not_used() -> None:
    target = Target.parse("llvm:sapphirerapids:x86_64-linux-gnu")
    assert find_bf16_product(replace(target, without=("avx512bf16",)), 16) is None


def test_weights_are_rounded_to_the_nearest_even_one() -> None:
    numbers = np.concatenate([EDGES, np.random.default_rng(0).standard_normal(1000).astype(np.float32)])
    assert np.array_equal(round_to_bf16(numbers), numbers.astype(ml_dtypes.bfloat16).view(np.uint16))
    assert np.isnan(widen(round_to_bf16(np.asarray([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)))).all()


def test_data_are_rounded_to_the_nearest_even_one() -> None:
    """Each number times 1 is its bfloat16 number."""
    from tvm import runtime

    lanes = max(lanes for lanes in LANES if not _lacks(lanes))
    nan = np.asarray([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    numbers = np.concatenate([EDGES, nan, np.random.default_rng(0).standard_normal(53).astype(np.float32)])
    data = np.zeros((len(numbers), 2), np.float32)
    data[:, 0] = numbers
    weight = np.zeros((1, 1, lanes, 2), np.uint16)
    weight[..., 0] = round_to_bf16(np.ones(1, np.float32))
    target = lane_target(lanes)
    space = make_space(task_of("dense", bf16_dense(len(data), weight.shape, lanes), (1,)), target)
    result = runtime.tensor(np.zeros((len(data), lanes), np.float32))
    call_kernel(space.schedule(space.default()).mod, target, runtime.tensor(data), runtime.tensor(weight), result)
    wanted = widen(round_to_bf16(numbers)).astype(np.float32)
    assert np.array_equal(result.numpy(), np.repeat(wanted[:, None], lanes, 1), equal_nan=True)


def _lacks(lanes: int) -> bool:
    from tests.targets import lack

    return bool(lack(lane_target(lanes)))


@pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: f"{lanes} lanes")
@pytest.mark.parametrize(("kernel", "stride", "pad", "last"), [(3, 2, 1, False), (1, 1, 0, True)])
def test_convolutions_are_right_in_every_program(lanes: int, kernel: int, stride: int, pad: int, last: bool) -> None:
    from tvm import runtime

    target = lane_target(lanes)
    require(target)
    rng = np.random.default_rng(0)
    shape, weights = (1, 2, 9, 13, 6), (2, 2, kernel, kernel, 3, lanes, 2)
    data = rng.standard_normal(shape).astype(np.float32)
    weight = round_to_bf16(rng.standard_normal(weights).astype(np.float32))
    image = widen(round_to_bf16(data)).transpose(0, 1, 4, 2, 3).reshape(1, 12, 9, 13)
    image = np.pad(image, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    matrix = widen(weight).transpose(0, 5, 1, 4, 6, 2, 3).reshape(2 * lanes, 12, kernel, kernel)
    windows = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    wanted = np.einsum("nchwij,ocij->nhwo", windows, matrix)
    blocked = wanted.reshape(*wanted.shape[:3], 2, lanes).transpose(0, 3, 1, 2, 4)
    wanted = wanted[:, None] if last else blocked
    function = bf16_conv2d(shape, weights, (stride, stride), (pad,) * 4, (1, 1), last)
    space = make_space(task_of("conv", function, (1,)), target)
    assert space.template.startswith("contraction/")
    for config in [space.default(), *sample(space, rng, 1)]:
        result = runtime.tensor(np.full(wanted.shape, 77, np.float32))
        call_kernel(space.schedule(config).mod, target, runtime.tensor(data), runtime.tensor(weight), result)
        np.testing.assert_allclose(result.numpy(), wanted, atol=1e-5 * np.abs(wanted).max())
