"""Winograd's algorithm: the transforms' numbers, whole networks, and what is fused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.agreement import network_error
from tests.models import LIGHT, TARGET, build_lean, defaults, design_space, normal, read, save
from tests.targets import lane_target, require
from tilewright.graph.convolution import Algorithm, Convolution
from tilewright.graph.tasks import Extraction, extract
from tilewright.graph.weights import Recipe
from tilewright.ops.winograd import Tiling, transform_weight

STAGED: tuple[Algorithm, ...] = ("winograd2", "winograd4")
FUSED: tuple[Algorithm, ...] = ("fused_winograd2", "fused_winograd4")


def agrees(path: Path, algorithm: Algorithm, out: Path) -> Extraction:
    """With ``algorithm`` wherever it can be, and default schedules, the model gives ONNX Runtime's outputs."""
    require(TARGET)
    network = read(path)
    convolutions = extract(network, TARGET).rewritten.convolutions
    assert convolutions
    extraction = extract(network, TARGET, {conv: algorithm for conv, _ in convolutions})
    transforms = [use for use in extraction.uses if use.task.kind == "winograd"]
    assert len(transforms) >= (2 if algorithm in STAGED else 1)
    for use in extraction.uses:
        if use.task.kind != "auto":
            assert not design_space(use.task, TARGET).template.startswith("auto"), use.task.name
    error = network_error(build_lean(extraction, defaults(extraction), out), network)
    assert error is not None
    assert error <= 1e-3
    return extraction


@settings(max_examples=14, deadline=None, derandomize=True)
@given(data=st.data(), algorithm=st.sampled_from(STAGED + FUSED))
def test_convolutions_of_all_sizes(data: st.DataObject, algorithm: Algorithm) -> None:
    batch, channels = data.draw(st.sampled_from([1, 4])), data.draw(st.sampled_from([4, 8, 12, 16, 20, 32]))
    out = data.draw(st.sampled_from([4, 8, 12, 24, 32]))
    height, width = (data.draw(st.integers(3, 17)) for _ in range(2))
    pads = data.draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
    shape = [batch, out, height + pads[0] + pads[2] - 2, width + pads[1] + pads[3] - 2]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["r"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["r"], ["q"]),
        helper.make_node("Conv", ["q", "w2", "b2"], ["y"], pads=pads),
    ]
    weights = {
        "w1": normal(channels, channels, 1, 1),
        "b1": normal(channels, seed=1),
        "w2": normal(out, channels, 3, 3, seed=2),
        "b2": normal(out, seed=3),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder, "m.onnx"), nodes, {"x": [batch, channels, height, width]}, shape, **weights)
        agrees(path, algorithm, Path(folder, "out"))


@pytest.mark.parametrize("algorithm", STAGED + FUSED)
def test_consumers_are_fused_into_the_last_function(algorithm: Algorithm, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    weights = {"w1": normal(16, 16, 3, 3), "w2": normal(16, 16, 3, 3, seed=1), "b2": normal(16, seed=2)}
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 16, 10, 10]}, [1, 16, 10, 10], **weights)
    extraction = agrees(path, algorithm, tmp_path / "out")
    uses = {use.functions[0]: use.weight for use in extraction.uses}
    names = [name for name in uses if ("inverse" if algorithm in STAGED else "conv_winograd") in name]
    assert len(names) == 2
    assert all(name.endswith("relu") for name in names)
    # Both convolutions have one data transform and one product in common, where those are functions.
    shared = sorted(uses[name] for name in uses if name.startswith(("winograd", "products")))
    assert shared == ([2, 2] if algorithm in STAGED else [])


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("squeezenet", "fused_winograd4"), ("inception_v2", "winograd4")],
)
def test_networks(name: str, algorithm: Algorithm, tmp_path: Path) -> None:
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    # Random weights make the last layer's outputs so large that a softmax of them hides all differences.
    softmax = model.graph.node[-1]
    assert softmax.op_type == "Softmax"
    shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    del model.graph.node[-1], model.graph.output[0]
    shape += [1, 1] if name == "squeezenet" and len(shape) == 2 else []
    model.graph.output.append(helper.make_tensor_value_info(softmax.input[0], onnx.TensorProto.FLOAT, shape))
    onnx.save(model, str(tmp_path / "m.onnx"))
    agrees(tmp_path / "m.onnx", algorithm, tmp_path / "out")


def test_what_has_no_such_algorithm_stays_direct(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),  # three channels
        helper.make_node("Conv", ["a", "w1"], ["b"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[2, 2, 2, 2], dilations=[2, 2]),
        helper.make_node("Conv", ["c", "w2"], ["y"]),
    ]
    weights = {"w0": normal(16, 3, 3, 3), "w1": normal(16, 16, 3, 3), "w2": normal(16, 16, 1, 1)}
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 3, 12, 12]}, [1, 16, 6, 6], **weights)
    # Three channels are less than half a vector of 8.
    assert extract(read(path), lane_target(8)).rewritten.convolutions == ()


@pytest.mark.parametrize("m", [2, 4])
def test_a_recipe_transforms_kernels(m: int) -> None:
    weight = normal(5, 3, 3, 3)
    recipe = Recipe("w", weight.shape, "float32").winograd(m)
    result = recipe.apply({"w": weight})
    assert result.shape == recipe.shape == (5, 3, m + 2, m + 2)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, transform_weight(m, weight))
    # The corners of G are alone in their rows: they see one corner of the kernel.
    np.testing.assert_array_equal(result[..., -1, -1], weight[..., -1, -1])


def test_tiles_cover_the_outputs() -> None:
    tiling = Tiling.of(4, 3, 14, 9, (1, 0, 1, 0))
    assert (tiling.rows, tiling.cols) == (14, 7)
    assert tiling.grid == (4, 2)
    assert tiling.tiles == 24
    conv = Convolution((3, 8, 14, 9), (16, 8, 3, 3), (1, 1), (1, 0, 1, 0), (8, 8))
    assert conv.result == (3, 16, 14, 7)
    assert conv.tiling(4) == tiling
