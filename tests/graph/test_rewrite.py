"""Blocked layouts: what fuses, what falls back, and that the numbers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import agrees, built, normal, save
from tilewright.graph.weights import Recipe


def test_conv_bias_residual_and_relu_are_one_task(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["r"], strides=[2, 2]),
        helper.make_node("Conv", ["x", "w2", "b2"], ["c"], pads=[2, 2, 2, 2], strides=[2, 2], dilations=[2, 2]),
        helper.make_node("Add", ["c", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        {"x": [1, 16, 12, 12]},
        [1, 32, 6, 6],
        w1=normal(32, 16, 1, 1),
        b1=normal(32),
        w2=normal(32, 16, 3, 3, seed=1),
        b2=normal(32, seed=2),
    )
    extraction = agrees(path, tmp_path / "out")
    assert not extraction.fallbacks
    contractions = [u for u in extraction.uses if u.task.kind == "contraction"]
    assert len(contractions) == 2
    assert any("relu" in name for u in contractions for name in u.functions)
    names = [name for u in extraction.uses if u.task.kind != "contraction" for name in u.functions]
    assert not any("relu" in name or "add" in name for name in names)


def test_a_conv_with_computed_weights_stays_plain_and_is_listed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["y"], pads=[1, 1, 1, 1]),
    ]
    inputs = {"x": [1, 8, 6, 6], "w2": [16, 16, 3, 3]}
    path = save(tmp_path / "m.onnx", nodes, inputs, [1, 16, 6, 6], w1=normal(16, 8, 1, 1))
    extraction = agrees(path, tmp_path / "out")
    assert len(extraction.fallbacks) == 1
    assert "conv2d" in extraction.fallbacks[0]
    assert "[16, 16, 3, 3]" in extraction.fallbacks[0]


@pytest.mark.parametrize("channels", [(16, 32), (16, 24), (16, 17)])
def test_concat(channels: tuple[int, int], tmp_path: Path) -> None:
    one, two = channels
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Conv", ["x", "w2"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        helper.make_node("Conv", ["c", "w3"], ["y"]),
    ]
    weights = {"w1": normal(one, 8, 1, 1), "w2": normal(two, 8, 3, 3), "w3": normal(16, one + two, 1, 1)}
    agrees(save(tmp_path / "m.onnx", nodes, {"x": [1, 8, 6, 6]}, [1, 16, 6, 6], **weights), tmp_path / "out")


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(transposed: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["g"], transB=transposed),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    w = normal(32, 24) if transposed else normal(24, 32)
    path = save(tmp_path / "m.onnx", nodes, {"x": [3, 24]}, [3, 32], w=w, b=normal(32))
    extraction = agrees(path, tmp_path / "out")
    assert [u.task.kind for u in extraction.uses] == ["contraction"]


def test_batch_matmul(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["p", "q"], ["y"])]
    agrees(save(tmp_path / "m.onnx", nodes, {"p": [2, 5, 12], "q": [2, 12, 16]}, [2, 5, 16]), tmp_path / "out")


def test_pooling_and_mean_keep_the_layout(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["m"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["m"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 8, 9, 9]}, [1, 16, 1, 1], w=normal(16, 8, 1, 1))
    agrees(path, tmp_path / "out")


def test_a_mean_over_axes_from_the_end_is_one_over_pixels(tmp_path: Path) -> None:
    """A blocked operand has an axis more, so its last axes are not those of the network's operand."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["m"], axes=[-1, -2], keepdims=1),
        helper.make_node("Conv", ["m", "w"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 16, 5, 7]}, [1, 16, 1, 1], w=normal(16, 16, 1, 1))
    extraction = agrees(path, tmp_path / "out")
    assert extraction.network.segments == ()


def test_an_activation_with_a_residual_of_another_layout(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Add", ["c", "r"], ["y"])]
    inputs = {"x": [1, 8, 6, 6], "r": [1, 16, 1, 1]}
    agrees(save(tmp_path / "m.onnx", nodes, inputs, [1, 16, 6, 6], w=normal(16, 8, 1, 1)), tmp_path / "out")


def test_a_recipe_moves_elements() -> None:
    array = normal(4, 6)
    recipe = Recipe("w", (4, 6), "float32").reshape((2, 2, 6)).transpose((2, 0, 1))
    assert recipe.shape == (6, 2, 2)
    result = recipe.apply({"w": array})
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, array.reshape(2, 2, 6).transpose(2, 0, 1))
    taken = Recipe("w", (4, 6), "float32").take(1, (3, -1, 0, 3))
    assert taken.shape == (4, 4)
    columns = np.stack([array[:, 3], np.zeros(4), array[:, 0], array[:, 3]], axis=1)
    np.testing.assert_array_equal(taken.apply({"w": array}), columns)


@pytest.mark.parametrize("shape", [(3, 16), (2, 16, 5), (1, 16, 6, 6)])
def test_batch_norm_of_any_rank(shape: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {n: rng.uniform(0.5, 1.5, 16).astype(np.float32) for n in ("scale", "shift", "mean", "var")}
    node = helper.make_node("BatchNormalization", ["x", *arrays], ["y"])
    agrees(save(tmp_path / "m.onnx", [node], {"x": list(shape)}, list(shape), **arrays), tmp_path / "out")


def test_clip_by_initializers_after_conv(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c", "low", "high"], ["y"]),
    ]
    arrays = {"w": normal(16, 8, 3, 3), "low": np.asarray(0, np.float32), "high": np.asarray(6, np.float32)}
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 8, 6, 6]}, [1, 16, 6, 6], **arrays)
    extraction = agrees(path, tmp_path / "out")
    assert any("conv2d" in name and "minimum" in name for use in extraction.uses for name in use.functions)


def test_a_strided_1x1_conv_reads_pixels_side_by_side(tmp_path: Path) -> None:
    """As in the shortcuts of residual networks; two convolutions of one tensor share its pixels."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2]),
        helper.make_node("Conv", ["x", "v"], ["b"], strides=[2, 2]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    weights = {"w": normal(16, 8, 1, 1), "v": normal(16, 8, 1, 1, seed=1)}
    extraction = agrees(
        save(tmp_path / "m.onnx", nodes, {"x": [1, 8, 7, 9]}, [1, 16, 4, 5], **weights), tmp_path / "out"
    )
    assert sum(use.weight for use in extraction.uses if "strided_slice" in use.task.name) == 1


def test_parts_of_a_concatenation_that_begin_within_a_vector(tmp_path: Path) -> None:
    node = helper.make_node("Concat", ["x", "z"], ["y"], axis=1)
    extraction = agrees(save(tmp_path / "m.onnx", [node], {"x": [1, 3], "z": [1, 5]}, [1, 8]), tmp_path / "out")
    assert extraction.plan is not None
    assert [call.kernel for call in extraction.plan.calls] == ["", ""]


def test_lanes_without_a_channel_stay_finite(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"]),
        helper.make_node("Abs", ["c"], ["a"]),
        helper.make_node("Log", ["a"], ["l"]),
        helper.make_node("Conv", ["l", "w2"], ["y"]),
    ]
    weights = {"w1": normal(17, 8, 1, 1), "w2": normal(8, 17, 1, 1, seed=1)}
    agrees(save(tmp_path / "m.onnx", nodes, {"x": [1, 8, 6, 6]}, [1, 8, 6, 6], **weights), tmp_path / "out")


@pytest.mark.parametrize("operands", [["g", "c"], ["c", "g"]])
def test_a_gate_of_channels_keeps_the_layout(operands: list[str], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Conv", ["p", "w2"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["g"]),
        helper.make_node("Mul", operands, ["m"]),
        helper.make_node("Conv", ["m", "w3"], ["y"]),
    ]
    weights = {"w1": normal(16, 16, 1, 1), "w2": normal(16, 16, 1, 1, seed=1), "w3": normal(16, 16, 1, 1, seed=2)}
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 16, 12, 12]}, [1, 16, 12, 12], **weights)
    extraction = agrees(path, tmp_path / "out")
    names = [name for use in extraction.uses for name in use.functions]
    assert sum("transpose" in name for name in names) == 2  # the input's and the output's


def test_a_module_that_returns_a_tuple(tmp_path: Path) -> None:
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            one = builder.emit_output(relax.op.nn.relu(x))
            two = builder.emit_output(relax.op.add(one, x))
        builder.emit_func_output(relax.Tuple([one, two]))
    _, executable = built(builder.finalize(), tmp_path / "out")
    data = normal(2, 8)
    first, second = executable(data)
    np.testing.assert_array_equal(first, np.maximum(data, 0))
    np.testing.assert_allclose(second, np.maximum(data, 0) + data, rtol=1e-6)
