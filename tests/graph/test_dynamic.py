"""Dynamically quantised networks: ONNX Runtime's integers exactly, and its numbers, on integer kernels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.agreement import one_thread
from tests.models import build_lean, built, defaults, normal, read, runs, save
from tests.targets import LANES, lack, lane_target
from tilewright.executable.executable import Executable
from tilewright.graph.tasks import extract

SHAPE = (6, 32)


def integers(path: Path) -> Path:
    """Bytes of an input with their scale and zero point, and their exact products with two weights.

    The inner dimension of the second product fills no quads, so it is no integer kernel.
    """
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["bytes", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["bytes", "w", "zero", "wz"], ["sums"]),
        helper.make_node("Reshape", ["bytes", "shape"], ["odd"]),
        helper.make_node("MatMulInteger", ["odd", "v", "zero"], ["others"]),
        helper.make_node("ConvInteger", ["image", "k", "zero"], ["pixels"], pads=[1, 0, 2, 1], strides=[2, 1]),
        helper.make_node("Reshape", ["bytes", "sides"], ["image"]),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-100, 100, (32, 20)).astype(np.int8),
        "wz": rng.integers(-20, 20, 20).astype(np.int8),
        "v": rng.integers(-127, 128, (6, 8)).astype(np.int8),
        "k": rng.integers(-127, 128, (5, 4, 3, 2)).astype(np.int8),
        "shape": np.asarray([32, 6]),
        "sides": np.asarray([1, 4, 6, 8]),
    }
    kinds = {"bytes": 2, "scale": 1, "zero": 2, "sums": 6, "others": 6, "pixels": 6}
    graph = helper.make_graph(
        [*nodes[:4], nodes[5], nodes[4]],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def network(path: Path, per_channel: bool) -> Path:
    """A network as ONNX Runtime's quantiser writes it: a MatMul with Relu, a Gemm, a sum, and a convolution."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("Gemm", ["r", "c", "d"], ["g"], transB=1),
        helper.make_node("Add", ["g", "r"], ["t"]),
        helper.make_node("Reshape", ["t", "sides"], ["i"]),
        helper.make_node("Conv", ["i", "k", "e"], ["y"], pads=[1, 1, 1, 1]),
    ]
    weights: dict[str, NDArray[Any]] = {
        "a": normal(32, 48),
        "b": normal(48),
        "c": normal(48, 48, seed=1),
        "d": normal(48),
        "k": normal(8, 3, 3, 3),
        "e": normal(8),
        "sides": np.asarray([6, 3, 4, 4]),
    }
    plain = save(path.with_name("plain.onnx"), nodes, {"x": SHAPE}, (6, 8, 4, 4), **weights)
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(str(plain), str(path), per_channel=per_channel, weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)
    return path


def session(path: Path) -> onnxruntime.InferenceSession:
    options = one_thread()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums without VNNI, too
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Executable, onnxruntime.InferenceSession]:
    folder = tmp_path_factory.mktemp("integers")
    path = integers(folder / "m.onnx")
    return built(path, folder / "out")[1], session(path)


def check(both: tuple[Executable, onnxruntime.InferenceSession], x: NDArray[np.float32]) -> None:
    for found, wanted in zip(both[0](x), both[1].run(None, {"x": x}), strict=True):
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted, equal_nan=True)


@runs
@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.floats(-3, 3), st.booleans())
def test_integers_are_those_of_onnx_runtime(
    both: tuple[Executable, onnxruntime.InferenceSession], seed: int, magnitude: float, shift: float, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(SHAPE) + shift
    if ties:  # a scale of a power of two, and quotients between two integers
        x = np.clip(rng.integers(-255, 256, SHAPE) / 2 + round(20 * shift), -127.5, 127.5)
        x[0, :2] = -127.5, 127.5
        magnitude = round(magnitude)
    check(both, (x * 2.0**magnitude).astype(np.float32))


@runs
@pytest.mark.parametrize("value", [0.0, -0.0, 3.7, -3.7, 1e-44, 1e38, np.inf, -np.inf])
def test_equal_and_extreme_numbers(both: tuple[Executable, onnxruntime.InferenceSession], value: float) -> None:
    check(both, np.full(SHAPE, value, np.float32))
    some = normal(*SHAPE)
    some[3, 7] = value
    check(both, some)


@pytest.mark.parametrize(("lanes", "per_channel"), [(min(LANES), False), *((lanes, True) for lanes in LANES)])
def test_a_quantised_network(lanes: int, per_channel: bool, tmp_path: Path) -> None:
    target = lane_target(lanes)
    if lack(target):
        pytest.skip(lack(target))
    path = network(tmp_path / "m.onnx", per_channel)
    extraction = extract(read(path), target)
    contractions = [use.task.name for use in extraction.uses if use.task.kind == "contraction"]
    assert len(contractions) == 3
    assert all(name.startswith("byte_") and "dequantise" in name for name in contractions)
    assert not extraction.fallbacks
    executable = build_lean(extraction, defaults(extraction), tmp_path / "out")
    for size in (1.0, 1e-3):
        x = size * normal(*SHAPE, seed=3)
        (found,), (wanted,) = executable(x), session(path).run(None, {"x": x})
        # A sum that is rounded otherwise may move one byte of the next layer by a quantum.
        assert np.abs(found - wanted).max() < 0.01 * np.abs(wanted).max()
        assert np.mean(np.abs(found - wanted) > 1e-4 * np.abs(wanted).max()) < 0.05
