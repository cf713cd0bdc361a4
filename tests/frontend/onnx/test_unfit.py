"""Models whose parts do not fit each other, or that are newer than ONNX Runtime, are refused when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.frontend.onnx.rewriting.computed import check_same, compile_and_run, make, run
from tests.models import normal, runs
from tilewright.errors import ModelFormatError, ShapeError
from tilewright.frontend.load import load


def convolution(image: tuple[int, ...], weights: tuple[int, ...], kind: str = "Conv") -> onnx.ModelProto:
    nodes = [helper.make_node(kind, ["x", "w"], ["y"], name="first")]
    return make(nodes, {"x": normal(*image)}, ["y"], w=normal(*weights))


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (convolution((1, 4, 8, 8), (8, 3, 3, 3)), r"Conv \(first\) is \[1, 4, 8, 8\], and its weights \[8, 3, 3, 3\]"),
        (convolution((1, 4, 8), (3, 8, 3), "ConvTranspose"), "take 3 channels; export the model again"),
        (
            convolution((1, 3, 2, 2), (8, 3, 3, 3)),
            r"image of Conv \(first\) is \[2, 2\], and its window \[3, 3\]; give",
        ),
    ],
)
def test_an_input_that_does_not_fit_its_weights(model: onnx.ModelProto, says: str, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=says):
        load(saved(model, tmp_path))


def test_a_model_from_the_future(tmp_path: Path) -> None:
    model = make([helper.make_node("Relu", ["x"], ["y"])], {"x": normal(2)}, ["y"])
    model.opset_import[0].version = 99
    with pytest.raises(
        ModelFormatError, match=r"has at most opset \d+, .* this one has opset 99; export it with opset \d+"
    ):
        load(saved(model, tmp_path))
    model.opset_import[0].version, model.ir_version = 18, 99
    with pytest.raises(ModelFormatError, match=r"at most version \d+ of the file format .* has 99; save it"):
        load(saved(model, tmp_path))


def test_weights_beside_the_model(tmp_path: Path) -> None:
    model = convolution((1, 3, 8, 8), (8, 3, 3, 3))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    written = onnx.load(path, load_external_data=False)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFormatError, match=r"there is no 'weights.bin'; copy that file to the directory of m.onnx"):
        load(path)
    next(e for e in written.graph.initializer[0].external_data if e.key == "length").value = "many"
    path.write_bytes(written.SerializeToString())
    with pytest.raises(ModelFormatError, match="the length of the data of 'w' is 'many', which is no number"):
        load(path)


@runs
def test_operators_that_nothing_depends_on_make_no_segment(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["unused"]),
        helper.make_node("Cast", ["unused"], ["unread"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    x = normal(2, 3)
    model = make(nodes, {"x": x}, ["y"])
    found, reasons = compile_and_run(model, {"x": x}, tmp_path)
    assert reasons == []
    check_same(found, run(model, {"x": x}))


@runs
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_recurrent_operators_whose_batch_comes_first(kind: str, gates: int, tmp_path: Path) -> None:
    """ONNX Runtime refuses them. So the right outputs are those of the same operator on transposed data."""
    x, state = normal(3, 5, 4), normal(3, 2, 6)
    weights: dict[str, Any] = {
        "W": normal(2, gates * 6, 4),
        "R": normal(2, gates * 6, 6),
        "lengths": np.asarray([5, 2, 1], np.int32),
    }
    inputs, ends = ["x", "W", "R", "", "lengths", "state"], ["y", "y_h"]
    feeds = {"x": x, "state": state}
    attributes: dict[str, Any] = {"hidden_size": 6, "direction": "bidirectional"}
    model = make([helper.make_node(kind, inputs, ends, layout=1, **attributes)], feeds, ends, **weights)
    found, reasons = compile_and_run(model, feeds, tmp_path)
    assert reasons == []
    turned = {name: array.swapaxes(0, 1).copy() for name, array in feeds.items()}
    y, y_h = run(make([helper.make_node(kind, inputs, ends, **attributes)], turned, ends, **weights), turned)
    check_same(found, [y.transpose(2, 0, 1, 3), y_h.swapaxes(0, 1)])


def dequantised(scales: tuple[int, ...], zeros: tuple[int, ...], axis: int, block: int = 0) -> onnx.ModelProto:
    more: dict[str, Any] = {"block_size": block} if block else {}
    node = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], name="first", axis=axis, **more)
    constants: dict[str, Any] = {
        "w": np.ones((6, 8), np.int8),
        "s": np.ones(scales, np.float32),
        "z": np.zeros(zeros, np.int8),
    }
    return make([node, helper.make_node("Add", ["x", "d"], ["y"])], {"x": normal(6, 8)}, ["y"], opset=21, **constants)


def quantised_convolution(scales: int, biases: int) -> onnx.ModelProto:
    names = ["q", "s", "z", "w", "ws", "wz", "s", "z", "b"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", names, ["c"], name="first"),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    constants: dict[str, Any] = {
        "s": np.asarray(0.1, np.float32),
        "z": np.asarray(3, np.uint8),
        "w": np.ones((8, 4, 1, 1), np.int8),
    }
    constants |= {"ws": np.ones(scales, np.float32), "wz": np.zeros(scales, np.int8), "b": np.ones(biases, np.int32)}
    return make(nodes, {"x": normal(1, 4, 5, 5)}, ["y"], **constants)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (dequantised((5,), (5,), 0), r"\(first\) has \[5\] scales for \[6, 8\] along axis 0, which takes \[6\]"),
        (dequantised((6,), (6,), 2), r"\(first\) has axis 2, and its tensor is \[6, 8\]; quantise the model again"),
        (dequantised((6,), (5,), 0), r"those of DequantizeLinear \(first\) are \[5\] and \[6\]"),
        (dequantised((6, 3), (6, 3), 1, 4), r"along axis 1 in blocks of 4, which takes \[6, 2\]"),
        (quantised_convolution(3, 8), r"as many scales as output channels, but QLinearConv \(first\) has \[3\]"),
        (quantised_convolution(8, 7), r"as many biases as output channels, but QLinearConv \(first\) has \[7\]"),
    ],
)
def test_scales_that_do_not_fit(model: onnx.ModelProto, says: str, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=says):
        load(saved(model, tmp_path))


def test_scales_that_fit(tmp_path: Path) -> None:
    for model in (dequantised((6,), (6,), -2), dequantised((6, 2), (6, 2), 1, 4), dequantised((), (), 5)):
        load(saved(model, tmp_path))
