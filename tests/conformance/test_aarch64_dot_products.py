"""Dot products of 64-bit Arm: libraries of kernels and of a quantised network for several processors, run by QEMU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.foreign import TRIPLE, export_foreign, export_kernels, needs_arm, run_network
from tests.graph.test_quantised import CASES, Sketch, reference
from tests.models import read
from tests.ops.contraction.test_bf16_products import widen
from tests.ops.contraction.test_dot_products import convolve
from tilewright.graph.tasks import extract, task_of
from tilewright.ops.contraction.bf16 import bf16_dense, round_to_bf16
from tilewright.ops.contraction.dot_products import Operands, find_bf16_product, find_dot_product
from tilewright.ops.contraction.quantised import byte_conv2d, byte_dense, byte_depthwise_conv2d
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.space import name_instruction
from tilewright.target import Target

pytestmark = needs_arm


def parse(mcpu: str) -> Target:
    """The target of a CPU, without what QEMU 7.2 does not tell programs that it has."""
    return replace(Target.parse(f"llvm:{mcpu}:{TRIPLE}"), without=("lse2",))


class Kernels:
    """Kernels of one target, with their inputs and the outputs that are right."""

    def __init__(self, target: Target) -> None:
        self.target, self.functions = target, dict[str, Any]()
        self.inputs: list[NDArray[Any]] = []
        self.wanted: list[NDArray[Any]] = []
        self.rng = np.random.default_rng(0)

    def add(self, function: Any, data: NDArray[Any], weight: NDArray[Any], wanted: NDArray[Any]) -> None:
        space = make_space(task_of("contraction", function, (1,)), self.target)
        assert space.template.startswith(("contraction/", "depthwise/"))
        for config in (space.default(), *sample(space, self.rng, 1)):
            self.functions[f"kernel{len(self.functions)}"] = space.schedule(config).mod["main"]
            self.inputs += [data, weight]
            self.wanted.append(wanted)


@pytest.mark.parametrize(
    ("mcpu", "cpu", "name"),
    [("cortex-a76", "cortex-a76", "sdot"), ("neoverse-v1", "max", "usdot")],
)
def test_sums_of_bytes_are_exact(mcpu: str, cpu: str, name: str, tmp_path: Path) -> None:
    target = parse(mcpu)
    dot = find_dot_product(target, 4)
    assert (dot and dot.name) == name
    kernels = Kernels(target)
    rng = kernels.rng
    kinds: tuple[Operands, ...] = ("any", "shifted")
    for operands in kinds:
        minus = 128 if operands == "shifted" else 0
        data = rng.choice([0, 1, 127, 128, 254, 255], (3, 16)).astype(np.uint8)
        weight = rng.choice([-128, -127, 0, 127], (3, 4, 4, 4)).astype(np.int8)
        matrix = weight.transpose(1, 3, 0, 2).reshape(16, 12)[:, :10].astype(np.int32)
        function = byte_dense(3, weight.shape, 10, operands=operands)
        kernels.add(function, data, weight, (data.astype(np.int32) - minus) @ matrix)

        image = rng.choice([0, 1, 127, 128, 254, 255], (1, 2, 9, 13, 8)).astype(np.uint8)
        weight = rng.choice([-128, -127, 0, 127], (2, 2, 3, 3, 2, 4, 4)).astype(np.int8)
        ones = np.full_like(image, minus)
        sums = convolve(image, weight, 1, 1, 200) - convolve(ones, weight, 1, 1, minus)
        function = byte_conv2d(image.shape, weight.shape, (1, 1), (1,) * 4, (1, 1), 200, operands=operands)
        kernels.add(function, image, weight, sums)
    pixels = rng.choice([0, 1, 127, 128, 254, 255], (1, 2, 7, 6, 4)).astype(np.uint8)
    numbers = rng.choice([-128, -127, 0, 127], (2, 4, 4, 1)).astype(np.int8)
    weight = np.ascontiguousarray(numbers.reshape(2, 4, 1, 4, 1).transpose(0, 2, 4, 1, 3))
    windows = np.lib.stride_tricks.sliding_window_view(pixels.astype(np.int32), 4, 2)
    sums = np.einsum("ncivjk,cvk->ncijv", windows.transpose(0, 1, 2, 4, 3, 5), numbers[..., 0].astype(np.int32))
    function = byte_depthwise_conv2d(pixels.shape, weight.shape, 4, (1, 1), (0, 0, 0, 0), (1, 1), zero=0)
    kernels.add(function, pixels, weight, sums.astype(np.int32))
    prefix, outputs = export_kernels(kernels.functions, target, tmp_path)
    for ours, theirs in zip(run_network(outputs, prefix, kernels.inputs, cpu), kernels.wanted, strict=True):
        assert np.array_equal(ours, theirs)


def test_products_of_bfloat16_numbers_are_right(tmp_path: Path) -> None:
    target = parse("neoverse-v1")
    dot = find_bf16_product(target, 4)
    assert dot is not None
    assert dot.name == "bfdot"
    kernels = Kernels(target)
    data = kernels.rng.standard_normal((7, 64)).astype(np.float32)
    weight = round_to_bf16(kernels.rng.standard_normal((3, 32, 4, 2)).astype(np.float32))
    matrix = widen(weight).transpose(1, 3, 0, 2).reshape(64, 12)[:, :10]
    kernels.add(bf16_dense(7, weight.shape, 10), data, weight, widen(round_to_bf16(data)) @ matrix)
    prefix, outputs = export_kernels(kernels.functions, target, tmp_path)
    for ours, theirs in zip(run_network(outputs, prefix, kernels.inputs, "max"), kernels.wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_a_quantised_network_has_the_integers_of_onnx_runtime(tmp_path: Path) -> None:
    """To a quantum: convolutions of signed data, depthwise ones, products, and attentions."""
    net = Sketch()
    for name in ("signed", "products", "attentions"):
        CASES[name](net)
    path = net.save(tmp_path / "m.onnx")
    network, target = read(path), parse("cortex-a76")
    extraction = extract(network, target)
    instructions = {name_instruction(make_space(use.task, target)) for use in extraction.uses}
    assert instructions == {"", "sdot"}
    inputs = [3 * array for array in network.random_inputs(0)]
    found = run_network(network.outputs, export_foreign(extraction, tmp_path), inputs)
    for spec, ours, theirs in zip(network.outputs, found, reference(path, inputs, False), strict=True):
        apart = np.abs(ours.astype(np.int32) - theirs.astype(np.int32))
        assert apart.max() <= 1, spec.name
        assert np.mean(apart > 0) < 0.02, spec.name
