"""Products of bytes: the instruction of each target, and exact sums at the ends of the ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.kernels import assembly, call_kernel, compile_kernel
from tests.targets import lane_target, require
from tilewright.graph.quantised.weight_formats import to_pairs
from tilewright.graph.tasks import task_of
from tilewright.ops.contraction.dot_products import Operands, find_dot_product, multiplies_signed, pairs_fit
from tilewright.ops.contraction.quantised import byte_conv2d, byte_dense
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.target import Target


@pytest.mark.parametrize(
    ("text", "lanes", "name"),
    [
        ("llvm:cascadelake:x86_64-linux-gnu", 16, "vpdpbusd"),
        ("llvm:cascadelake:x86_64-linux-gnu", 8, "vpdpbusd"),
        ("llvm:alderlake:x86_64-linux-gnu", 8, "vpdpbusd"),
        ("llvm:skylake-avx512:x86_64-linux-gnu", 16, "vpmaddwd"),
        ("llvm:haswell:x86_64-linux-gnu", 8, "vpmaddwd"),
        ("llvm:x86-64-v2:x86_64-linux-gnu", 4, "vpmaddwd"),
        ("llvm:neoverse-v1:aarch64-linux-gnu", 4, "usdot"),
        ("llvm:cortex-a76:aarch64-linux-gnu", 4, "sdot"),
    ],
)
def test_each_target_has_its_instruction(text: str, lanes: int, name: str) -> None:
    target = Target.parse(text)
    dot = find_dot_product(target, lanes)
    assert dot is not None
    assert dot.name == name
    space = make_space(task_of("dense", byte_dense(4, (2, 8, lanes, 4), 2 * lanes), (1,)), target)
    code = assembly(space.schedule(space.default()).mod, target)
    assert name.removeprefix("v") in code


@pytest.mark.parametrize(
    ("text", "lanes", "name"),
    [
        ("llvm:cascadelake:x86_64-linux-gnu", 16, "vpdpbusd"),
        ("llvm:skylake-avx512:x86_64-linux-gnu", 16, "vpmaddubsw"),
        ("llvm:haswell:x86_64-linux-gnu", 8, "vpmaddubsw"),
        ("llvm:x86-64-v2:x86_64-linux-gnu", 4, "vpmaddubsw"),
    ],
)
def test_weights_that_fit_have_the_faster_instruction(text: str, lanes: int, name: str) -> None:
    target = Target.parse(text)
    function = byte_dense(4, (2, 8, lanes, 4), 2 * lanes, "fitting")
    space = make_space(task_of("dense", function, (1,)), target)
    code = assembly(space.schedule(space.default()).mod, target)
    assert name.removeprefix("v") in code
    plain = make_space(task_of("dense", byte_dense(4, (2, 8, lanes, 4), 2 * lanes), (1,)), target)
    assert "pmaddubsw" not in assembly(plain.schedule(plain.default()).mod, target)


@given(weights=arrays(np.int8, (3, 2, 4)))
def test_weights_fit_only_if_no_data_saturate(weights: NDArray[np.int8]) -> None:
    pairs = weights.astype(np.int64).reshape(-1, 2)
    data = np.stack([np.full_like(pairs, 255), np.where(pairs > 0, 255, 0), np.where(pairs < 0, 255, 0)])
    sums = (data * pairs).sum(-1)
    saturates = bool((sums > 32767).any() or (sums < -32768).any())
    assert not (pairs_fit(weights) and saturates)
    halved = (weights // 2).astype(np.int8)  # 7 bits, as with reduce_range
    assert pairs_fit(halved)


@pytest.mark.parametrize("weights", [[[127, 2]], [[-128, 1]], [[64, -65]]])
def test_the_first_pairs_beyond_the_range_do_not_fit(weights: list[list[int]]) -> None:
    assert not pairs_fit(np.asarray(weights, np.int8))


def test_arm_without_dot_products_has_plain_code() -> None:
    target = Target.parse("llvm:cortex-a53:aarch64-linux-gnu")
    assert find_dot_product(target, 4) is None
    assert not multiplies_signed(target)


def test_shifted_data_take_one_instruction_where_they_are_wanted() -> None:
    target = Target.parse("llvm:cortex-a76:aarch64-linux-gnu")
    assert multiplies_signed(target)
    counts = []
    kinds: tuple[Operands, ...] = ("any", "shifted")
    for operands in kinds:
        space = make_space(task_of("dense", byte_dense(4, (2, 8, 4, 4), 8, operands), (1,)), target)
        code = assembly(space.schedule(space.default()).mod, target)
        counts.append(code.count("\tsdot\t"))
    assert counts[0] > counts[1] == 4 * 2 * 8
    assert not multiplies_signed(Target.parse("llvm:neoverse-v1:aarch64-linux-gnu"))
    assert not multiplies_signed(Target.parse("llvm:cascadelake:x86_64-linux-gnu"))


def convolve(data: NDArray[Any], weight: NDArray[Any], stride: int, pad: int, zero: int) -> NDArray[np.int32]:
    """The sums, in int64, of blocked data and packed weights."""
    n, cc, _, _, cb = data.shape
    oo, _, kh, kw, _, x, _ = weight.shape
    image = data.transpose(0, 1, 4, 2, 3).reshape(n, cc * cb, *data.shape[2:4]).astype(np.int64)
    kernel = weight.transpose(0, 5, 1, 4, 6, 2, 3).reshape(oo * x, cc * cb, kh, kw).astype(np.int64)
    image = np.pad(image, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=zero)
    windows = np.lib.stride_tricks.sliding_window_view(image, (kh, kw), (2, 3))[:, :, ::stride, ::stride]
    sums = np.einsum("nchwij,ocij->nohw", windows, kernel)
    return np.asarray(sums.reshape(n, oo, x, *sums.shape[2:]).transpose(0, 1, 3, 4, 2).astype(np.int32))


@pytest.mark.parametrize("lanes", [4, 8, 16], ids=lambda lanes: f"{lanes} lanes")
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 1, 1), (1, 1, 0), (3, 2, 1)])
@pytest.mark.parametrize(
    ("together", "fits"), [(4, False), (2, False), (4, True)], ids=["quads", "pairs", "fitting quads"]
)
def test_sums_are_exact_in_every_program(
    lanes: int, kernel: int, stride: int, pad: int, together: int, fits: bool
) -> None:
    from tvm import runtime

    target = lane_target(lanes)
    require(target)
    rng = np.random.default_rng(0)
    shape, weights = (1, 2, 9, 13, 16), (2, 2, kernel, kernel, 4, lanes, 4)
    data = rng.choice([0, 1, 254, 255], shape).astype(np.uint8)
    weight = rng.choice([-64, -63, 0, 64] if fits else [-128, -127, 0, 127], weights).astype(np.int8)
    assert pairs_fit(weight) == fits
    wanted = convolve(data, weight, stride, pad, 200)
    packed = to_pairs(weight) if together == 2 else weight
    function = byte_conv2d(shape, packed.shape, (stride, stride), (pad,) * 4, (1, 1), 200, "fitting" if fits else "any")
    space = make_space(task_of("conv", function, (1,)), target)
    assert space.template.startswith("contraction/")
    for config in [space.default(), *sample(space, rng, 1)]:
        result = runtime.tensor(np.full(wanted.shape, 77, np.int32))
        call_kernel(space.schedule(config).mod, target, runtime.tensor(data), runtime.tensor(packed), result)
        assert np.array_equal(result.numpy(), wanted)


@pytest.mark.parametrize("shifted", [False, True])
def test_a_machine_without_an_instruction_computes_the_same(shifted: bool) -> None:
    from tvm import runtime

    target = lane_target(4)
    require(target)
    import dataclasses

    plain = dataclasses.replace(target, without=("sse4.1", "sse4.2"))
    assert find_dot_product(plain, 4) is None
    function = byte_dense(3, (3, 4, 4, 4), 10, "shifted" if shifted else "any")
    space = make_space(task_of("dense", function, (1,)), plain)
    rng = np.random.default_rng(0)
    data, weight = rng.integers(0, 256, (3, 16)).astype(np.uint8), rng.integers(-128, 128, (3, 4, 4, 4)).astype(np.int8)
    result = runtime.tensor(np.zeros((3, 10), np.int32))
    compile_kernel(space.schedule(space.default()).mod, plain)(runtime.tensor(data), runtime.tensor(weight), result)
    matrix = weight.transpose(1, 3, 0, 2).reshape(16, 12)[:, :10].astype(np.int32)
    assert np.array_equal(result.numpy(), (data.astype(np.int32) - 128 * shifted) @ matrix)
