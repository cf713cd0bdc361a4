"""Products with weights of 4 bits: they stay so in memory, and results are those of ONNX Runtime and of float64."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.agreement import one_thread
from tests.models import build_lean, defaults, normal, read, save
from tests.targets import LANES, lack, lane_target
from tilewright.graph.tasks import Extraction, extract
from tilewright.target import Target
from tilewright.tensor import Array
from tilewright.verify.evaluator import OnnxEvaluator


def small(lanes: int) -> Target:
    """A target whose second cache holds no weights."""
    return replace(lane_target(lanes), l2=64)


#: Rows, inputs, outputs, inputs of a block, the dtype of zero points, and whether there is a bias.
PRODUCT = st.tuples(
    st.sampled_from((1, 2, 3, 7, 8, 9, 17)),
    st.integers(9, 300),
    st.integers(2, 70),
    st.sampled_from((16, 32, 64, 128, 256)),
    st.sampled_from(("", "uint8", "float32")),
    st.booleans(),
)


def network(path: Path, products: list[tuple[int, int, int, int, str, bool]], seed: int) -> Path:
    """A model of products side by side."""
    rng = np.random.default_rng(seed)
    nodes, inputs, outputs, weights = [], [], [], []
    for number, (rows, depth, out, block, zeros, bias) in enumerate(products):
        blocks = -(-depth // block)
        made: dict[str, Array] = {
            "b": rng.integers(0, 256, (out, blocks, block // 2)).astype(np.uint8),
            "s": rng.uniform(-0.1, 0.1, out * blocks).astype(np.float32),
        }
        if zeros == "uint8":
            made["z"] = rng.integers(0, 256, out * (-(-blocks // 2))).astype(np.uint8)
        elif zeros:
            made["z"] = rng.uniform(0, 15, out * blocks).astype(np.float32)
        names = [f"x{number}", *(f"{name}{number}" for name in made)]
        if bias:
            made["c"] = rng.standard_normal(out).astype(np.float32)
            names += [*[""] * (5 - len(names)), f"c{number}"]
        weights += [numpy_helper.from_array(array, f"{name}{number}") for name, array in made.items()]
        attributes: Any = {"K": depth, "N": out, "bits": 4, "block_size": block}
        nodes.append(helper.make_node("MatMulNBits", names, [f"y{number}"], domain="com.microsoft", **attributes))
        inputs.append(helper.make_tensor_value_info(f"x{number}", TensorProto.FLOAT, [rows, depth]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, [rows, out]))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def check(path: Path, target: Target, out: Path, seed: int = 0) -> Extraction:
    """Compare the built network with ONNX Runtime, and with the evaluator in float64."""
    if lack(target):
        pytest.skip(lack(target))
    extraction = extract(read(path), target)
    executable = build_lean(extraction, defaults(extraction), out)
    model = onnx.load(str(path))
    given = [normal(*spec.shape, seed=seed + place) for place, spec in enumerate(executable.inputs)]
    names = [value.name for value in model.graph.input]
    options = one_thread()
    # Otherwise it joins DequantizeLinear and MatMul, and rounds the data to int8.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options)
    exact = OnnxEvaluator(model, names, double=True).run(given)
    for ours, theirs, right in zip(
        executable(*given), session.run(None, dict(zip(names, given, strict=True))), exact, strict=True
    ):
        assert np.abs(ours - right).max() <= 3e-6 * np.abs(right).max()
        assert np.abs(ours - theirs).max() <= 6e-6 * np.abs(right).max()
    return extraction


def kinds(extraction: Extraction) -> set[str]:
    return {recipe.dtype for recipe in extraction.rewritten.recipes}


@pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: f"{lanes} lanes")
@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(products=st.lists(PRODUCT, min_size=5, max_size=5), seed=st.integers(0, 99))
def test_products_are_right(lanes: int, products: Any, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("nibbles")
    extraction = check(network(folder / "m.onnx", products, seed), small(lanes), folder / "out", seed)
    assert "uint32" in kinds(extraction)
    assert {use.task.kind for use in extraction.uses} <= {"contraction", "elementwise", "auto"}
    assert sum(use.task.name.startswith("nibble_") for use in extraction.uses) >= 1


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("how", ["QOperator", "QDQ"])
def test_what_onnx_runtimes_quantiser_writes(how: str, symmetric: bool, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    path = save(tmp_path / "f.onnx", nodes, {"x": [1, 3, 96]}, [1, 3, 40], w=normal(96, 64), v=normal(64, 40, seed=1))
    logging.disable(logging.WARNING)
    quantiser = MatMulNBitsQuantizer(
        onnx.load(str(path)), block_size=32, is_symmetric=symmetric, quant_format=QuantFormat[how]
    )
    quantiser.process()
    logging.disable(logging.NOTSET)
    quantiser.model.save_model_to_file(str(tmp_path / "q.onnx"))
    extraction = check(tmp_path / "q.onnx", small(16), tmp_path / "out")
    assert [use.task.name.split()[0] for use in extraction.uses] == ["nibble_dense_relu", "nibble_dense"]


def test_weights_that_the_cache_holds_become_float32(tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx", [(1, 96, 40, 32, "uint8", True)], 0)
    assert kinds(check(path, lane_target(8), tmp_path / "out")) == {"float32"}
