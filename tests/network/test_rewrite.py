"""Blocked layouts: what fuses, what falls back, and that the numbers stay."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.network.models import TARGET, agrees, normal, save
from tilewright.network.weights import Recipe


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


def test_a_grouped_conv_stays_plain_and_is_listed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["y"], group=4, pads=[1, 1, 1, 1]),
    ]
    weights = {"w1": normal(16, 8, 1, 1), "w2": normal(16, 4, 3, 3)}
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 8, 6, 6]}, [1, 16, 6, 6], **weights)
    extraction = agrees(path, tmp_path / "out")
    assert len(extraction.fallbacks) == 1
    assert "conv2d" in extraction.fallbacks[0]
    assert "[16, 4, 3, 3]" in extraction.fallbacks[0]


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


def test_an_activation_with_a_residual_of_another_layout(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Add", ["c", "r"], ["y"])]
    inputs = {"x": [1, 8, 6, 6], "r": [1, 16, 1, 1]}
    agrees(save(tmp_path / "m.onnx", nodes, inputs, [1, 16, 6, 6], w=normal(16, 8, 1, 1)), tmp_path / "out")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_convolutions_of_all_forms(data: st.DataObject) -> None:
    def pair(most: int) -> list[int]:
        return data.draw(st.lists(st.integers(1, most), min_size=2, max_size=2))

    batch, channels = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 3, 8, 12, 16, 20]))
    out = data.draw(st.sampled_from([5, 8, 16, 24, 32, 48]))
    size, kernel, strides, dilations = pair(12), pair(3), pair(3), pair(2)
    pads = data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    spans = [size[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1 for i in range(2)]
    assume(min(spans) >= 0)
    shape = [batch, out, *(span // stride + 1 for span, stride in zip(spans, strides, strict=True))]
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=strides, dilations=dilations, pads=pads)
    with tempfile.TemporaryDirectory() as folder:
        weights = {"w": normal(out, channels, *kernel), "b": normal(out)}
        path = save(Path(folder, "m.onnx"), [node], {"x": [batch, channels, *size]}, shape, **weights)
        extraction = agrees(path, Path(folder, "out"))
    assert bool(extraction.fallbacks) == (
        max(d for d in range(1, TARGET.lanes + 1) if out % d == 0) < TARGET.lanes // 2
    )


def test_a_recipe_moves_elements() -> None:
    array = normal(4, 6)
    recipe = Recipe("w", (4, 6), "float32").reshape((2, 2, 6)).transpose((2, 0, 1))
    assert recipe.shape == (6, 2, 2)
    result = recipe.apply({"w": array})
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, array.reshape(2, 2, 6).transpose(2, 0, 1))


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
    agrees(save(tmp_path / "m.onnx", nodes, {"x": [1, 8, 6, 6]}, [1, 16, 6, 6], **arrays), tmp_path / "out")
