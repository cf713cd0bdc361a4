"""Reading models: the light networks of the onnx package, and malformed files."""

from __future__ import annotations

import os
import signal
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.agreement import network_error
from tests.models import LIGHT, TARGET, agrees, build_lean, built, conv_model, normal, save
from tilewright.compare.peers import pytorch
from tilewright.errors import MissingExtraError, ModelFormatError, ShapeError, UnsupportedOperatorError
from tilewright.frontend.load import load
from tilewright.frontend.onnx.data import open_model, save_onnx
from tilewright.frontend.onnx.model import prepare
from tilewright.frontend.onnx.reading import OnnxReading
from tilewright.graph.tasks import extract


def test_the_network_says_what_the_file_says(tmp_path: Path) -> None:
    network = load(conv_model(tmp_path / "small.onnx"))
    assert network.name == "small"
    assert [(s.name, s.shape, s.dtype) for s in network.inputs] == [("x", (1, 8, 10, 10), "float32")]
    assert [(s.name, s.shape, s.dtype) for s in network.outputs] == [("y", (1, 16, 10, 10), "float32")]
    assert sorted(a.size for a in network.weights.values()) == [16, 16 * 8 * 9]


def test_a_symbolic_batch_needs_a_shape(tmp_path: Path) -> None:
    path = conv_model(tmp_path / "m.onnx", batch="N")
    with pytest.raises(ShapeError, match=r"'x' is \[N,8,10,10\].*--shape x=1,8,10,10"):
        load(path)
    network = load(path, {"x": (2, 8, 10, 10)})
    assert network.inputs[0].shape == (2, 8, 10, 10)
    assert network.outputs[0].shape == (2, 16, 10, 10)


def test_a_shape_for_no_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"--shape and samples .* 'z' is none; it has: x"):
        load(conv_model(tmp_path / "m.onnx"), {"z": (1, 8, 10, 10)})


@pytest.mark.parametrize("shape", [(1, 9, 10, 10), (1, 8, 10)])
def test_a_shape_keeps_what_the_model_fixes(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="keeps the dimensions"):
        load(conv_model(tmp_path / "m.onnx", batch="N"), {"x": shape})


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="there is none at"):
        load(tmp_path / "none.onnx")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="is a directory"):
        load(tmp_path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = conv_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFormatError):
        load(path)


@pytest.mark.parametrize("text", ["this is not a model\n" * 20, ""])
def test_a_file_of_something_else(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text(text)
    with pytest.raises(ModelFormatError):
        load(path)


def test_an_object_of_something_else() -> None:
    with pytest.raises(ModelFormatError, match="this is a int"):
        load(3)


def test_an_operator_that_onnx_does_not_know(tmp_path: Path) -> None:
    nodes = [helper.make_node("Frobnicate", ["x"], ["y"], name="odd")]
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 4]}, [1, 4])
    with pytest.raises(UnsupportedOperatorError, match="Frobnicate") as caught:
        load(path)
    assert "odd" in str(caught.value)


def test_an_operator_that_tvm_does_not_know(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["y"], name="determinant")]
    path = save(tmp_path / "m.onnx", nodes, {"x": [2, 4, 4]}, [2])
    (segment,) = load(path).segments
    assert segment.reasons == ("Det (determinant): no converter serves it",)


def test_the_operator_that_is_missing_is_the_one_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["r"], name="noise"),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [4]}, [4])
    (segment,) = load(path).segments
    assert segment.reasons == ("RandomNormalLike (noise): no converter serves it",)


@pytest.mark.parametrize("mode", ["initializer", "input"])
def test_dropout_that_is_random_is_refused(mode: str, tmp_path: Path) -> None:
    """The outputs of a model that was exported for training cannot be compared with anything."""
    nodes = [helper.make_node("Dropout", ["x", "ratio", "mode"], ["y"], name="drop")]
    weights = {"ratio": np.asarray(0.5, np.float32)} | ({"mode": np.asarray(True)} if mode == "initializer" else {})
    inputs = {"x": [4]} | ({} if weights.keys() >= {"mode"} else {"mode": []})
    path = save(tmp_path / "m.onnx", nodes, inputs, [4], **weights)
    with pytest.raises(UnsupportedOperatorError, match=r"Dropout \(node 'drop'\) is in its mode for training.*eval"):
        load(path)
    path = save(tmp_path / "e.onnx", nodes, {"x": [4]}, [4], ratio=np.asarray(0.5, np.float32), mode=np.asarray(False))
    load(path)


def test_batch_norms_that_train_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("BatchNormalization", [*"xsbmv"], [*"yno"], name="norm", training_mode=1)]
    path = save(tmp_path / "m.onnx", nodes, {"x": [2, 3, 4]}, [2, 3, 4], **{k: np.ones(3, np.float32) for k in "sbmv"})
    with pytest.raises(UnsupportedOperatorError, match=r"BatchNormalization \(node 'norm'\) is in its mode"):
        load(path)


def test_what_onnx_runtime_says_names_no_file_of_ours(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Add", ["x", "nowhere"], ["y"])], {"x": [4]}, [4])
    with pytest.raises(ModelFormatError, match="'nowhere' is not a graph input, initializer, or output") as caught:
        load(path)
    assert "chained" not in str(caught.value)


def test_a_split_into_many(tmp_path: Path) -> None:
    """The sizes of the split have more than a kilobyte, but shape inference reads them."""
    parts = [f"p{i}" for i in range(200)]
    nodes = [helper.make_node("Split", ["x", "sizes"], parts, axis=0), helper.make_node("Relu", ["p7"], ["y"])]
    network = load(save(tmp_path / "m.onnx", nodes, {"x": [200, 4]}, [1, 4], sizes=np.ones(200, np.int64)))
    assert network.outputs[0].shape == (1, 4)


def test_a_negative_extent_is_fixed_as_the_message_says(tmp_path: Path) -> None:
    path = conv_model(tmp_path / "m.onnx", batch=-1)
    with pytest.raises(ShapeError, match="--shape x=1,8,10,10"):
        load(path)
    assert load(path, {"x": (1, 8, 10, 10)}).inputs[0].shape == (1, 8, 10, 10)


def test_weights_that_a_file_only_declares_are_the_same_each_time() -> None:
    first, second = (load(LIGHT / "light_squeezenet.onnx").weights for _ in range(2))
    assert list(first) == list(second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
        assert array.size < 2 or np.ptp(array) > 0


def test_a_constant_of_the_model_s_own_keeps_its_value(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.asarray([2.0], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["twos"], value=value),
        helper.make_node("Add", ["x", "twos"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 8]}, [1, 8], shape=np.asarray([1, 8]))
    _, executable = built(path, tmp_path / "out")
    x = normal(1, 8)
    np.testing.assert_allclose(executable(x)[0], x + 2.0, rtol=1e-6)


def test_an_input_that_nobody_reads_stays_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["like"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [2, 8], "like": [4, 4]}, [4, 4])
    extraction = agrees(path, tmp_path / "out")
    assert [spec.name for spec in extraction.network.inputs] == ["x", "like"]


def test_ids_that_are_an_input_of_one_axis(tmp_path: Path) -> None:
    """TVM's importer needs the shape of the table for it."""
    table = normal(10, 8)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        "g",
        [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [6, 8])],
        [numpy_helper.from_array(table, "table")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    _, executable = built(path, tmp_path / "out")
    ids = np.asarray([0, 9, -1, -10, 3, 3])
    np.testing.assert_array_equal(executable(ids)[0], table[ids])


def test_a_scalar_of_a_network_with_branches(tmp_path: Path) -> None:
    """The virtual machine runs it, and takes a scalar as its input."""
    branches = {
        f"{kind}_branch": helper.make_graph(
            [helper.make_node(operator, ["x"], [kind])],
            kind,
            [],
            [helper.make_tensor_value_info(kind, onnx.TensorProto.FLOAT, [4, 4])],
        )
        for kind, operator in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], **branches),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [4, 4], "s": []}, [4, 4], zero=np.asarray(0, np.float32))
    _, executable = built(path, tmp_path / "out")
    x = normal(4, 4)
    np.testing.assert_allclose(executable(x, 1.0)[0], np.maximum(x, 0))
    np.testing.assert_allclose(executable(x, -1.0)[0], -x)


def test_a_relax_module(tmp_path: Path) -> None:
    module = load(conv_model(tmp_path / "m.onnx")).module
    network = load(module)
    assert network.onnx is None
    assert network.inputs[0].shape == (1, 8, 10, 10)


def test_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU()).eval()
    data = torch.randn(1, 3, 8, 8)
    _, executable = built(torch.export.export(layers, (data,)), tmp_path / "out")
    (result,) = executable(data.numpy())
    np.testing.assert_allclose(result, layers(data).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_a_file_of_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU()).eval()
    torch.export.save(torch.export.export(layers, (torch.randn(1, 3, 8, 8),)), str(tmp_path / "small.pt2"))
    network = load(tmp_path / "small.pt2")
    assert network.name == "small"
    assert network.inputs[0].shape == (1, 3, 8, 8)
    extraction, executable = built(tmp_path / "small.pt2", tmp_path / "out")
    error = network_error(executable, extraction.network)
    assert error is not None
    assert error <= 1e-3
    with pytest.raises(ShapeError, match="fixed shapes"):
        load(tmp_path / "small.pt2", {"x": (1, 3, 8, 8)})


def test_a_program_of_pytorch_with_names_and_nests(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Named(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(16, 16)

        def forward(self, pair: Any, *, scale: Any) -> Any:
            hidden = self.layer(pair[0] + pair[1])
            return {"hidden": hidden, "more": (hidden * scale, scale)}

    pair, scale = (torch.randn(2, 16), torch.randn(2, 16)), torch.randn(1)
    program = torch.export.export(Named().eval(), (pair,), {"scale": scale})
    extraction, executable = built(program, tmp_path / "out")
    error = network_error(executable, extraction.network)
    assert error is not None
    assert error <= 1e-3
    torch.export.save(program, str(tmp_path / "named.pt2"))
    peer = pytorch(str(tmp_path / "named.pt2"), "native")
    inputs = [pair[0].numpy(), pair[1].numpy(), scale.numpy()]
    for ours, theirs in zip(executable(*inputs), peer(*inputs), strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs, np.float32), rtol=1e-3, atol=1e-4)


def test_a_file_that_only_has_pytorch_s_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="there is none at"):
        load(tmp_path / "none.pt2")
    (tmp_path / "m.pt2").write_text("no archive")
    with pytest.raises((ModelFormatError, MissingExtraError), match=r"cannot be read as one|pip install"):
        load(tmp_path / "m.pt2")


def test_the_light_networks_are_nine() -> None:
    assert len(list(LIGHT.glob("light_*.onnx"))) == 9
    assert onnx.load(str(LIGHT / "light_vgg19.onnx")).graph.node


def die_with_optimiser(path: Path, shapes: dict[str, tuple[int, ...]], folder: Path, optimised: bool) -> None:
    """Prepare a model as :func:`prepare`, but crash as ONNX Runtime's optimiser may."""
    if optimised:
        os.kill(os.getpid(), signal.SIGSEGV)
    prepare(path, shapes, folder, optimised)


def die(path: Path, shapes: dict[str, tuple[int, ...]], folder: Path, optimised: bool) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_crash_of_the_optimiser_costs_the_folding_only(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"]),
    ]
    weights = {name: np.abs(normal(16, seed=seed)) for seed, name in enumerate("sbmv")} | {"w": normal(16, 8, 3, 3)}
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 8, 10, 10]}, [1, 16, 8, 8], **weights)
    with OnnxReading(path, {}, die_with_optimiser) as reading:
        network = load(reading)
    assert not reading.folded
    extraction = extract(network, TARGET)
    error = network_error(build_lean(extraction, {}, tmp_path / "out"), network)
    assert error is not None
    assert error <= 1e-3
    with OnnxReading(path, {}, die) as reading, pytest.raises(ModelFormatError, match="SIGSEGV"):
        load(reading)


def test_an_empty_name_of_an_optional_input_is_none(tmp_path: Path) -> None:
    nodes = [helper.make_node("LayerNormalization", ["x", "s", ""], ["y"], axis=-1)]  # ends ONNX Runtime 1.32
    path = save(tmp_path / "m.onnx", nodes, {"x": [3, 8]}, [3, 8], s=normal(8))
    network = load(path)
    assert network.onnx is not None
    assert list(network.onnx.graph.node[0].input) == ["x", "s"]
    agrees(path, tmp_path / "out")


def test_weights_above_the_limit_are_in_files_of_their_own(tmp_path: Path) -> None:
    network = load(conv_model(tmp_path / "m.onnx"))
    assert network.onnx is not None
    save_onnx(network.onnx, tmp_path / "large.onnx", most_inside=1000)
    assert (tmp_path / "model.bin").stat().st_size == 16 * 8 * 9 * 4  # the bias is small
    assert (tmp_path / "large.onnx").stat().st_size < 1000
    for name, array in load(tmp_path / "large.onnx").weights.items():
        np.testing.assert_array_equal(array, network.weights[name])
    onnx.checker.check_model(str(tmp_path / "large.onnx"))
    (tmp_path / "model.bin").write_bytes(b"short")
    with pytest.raises(ModelFormatError, match="does not hold"):
        load(tmp_path / "large.onnx")


def test_a_model_beyond_the_limit_of_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No function serialises a model with its weights, so a limit below their size changes nothing."""
    serialise = onnx.ModelProto.SerializeToString

    def limited(model: onnx.ModelProto, **how: Any) -> bytes:
        content = bytes(serialise(model, **how))
        if len(content) > 3000:
            raise ValueError("Failed to serialize proto")
        return content

    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(str(conv_model(path))), str(path), save_as_external_data=True, location="weights.bin")
    folder = tmp_path / "read"
    folder.mkdir()
    monkeypatch.setattr(onnx.ModelProto, "SerializeToString", limited)
    prepare(path, {}, folder)
    filled = open_model(folder / "model.onnx")
    save_onnx(filled, tmp_path / "saved.onnx", most_inside=1000)
    assert open_model(folder / "folded.onnx").graph.node
    with pytest.raises(ValueError, match="Failed"):
        filled.SerializeToString()


def test_a_program_of_pytorch_under_another_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(8, 8).eval()
    torch.export.save(torch.export.export(layer, (torch.randn(1, 8),)), str(tmp_path / "m.pt2"))
    (tmp_path / "m.pt2").rename(tmp_path / "m.pt")
    assert load(tmp_path / "m.pt").inputs[0].shape == (1, 8)
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    with pytest.raises(ModelFormatError, match=r"state dict .*torch\.export"):
        load(tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:  # PyTorch warns that TorchScript is deprecated
        archive.writestr("m/code/__torch__/layer.py", "")
    with pytest.raises(ModelFormatError, match="TorchScript"):
        load(tmp_path / "m.pt")


def test_constants_of_the_optimiser_have_names_of_ours(tmp_path: Path) -> None:
    """ONNX Runtime makes constants with names of its own, and fails if a model has them already."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
        helper.make_node("MatMul", ["y", "w"], ["n"]),
        helper.make_node("Add", ["n", "b"], ["z"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 6, 8]}, [1, 6, 8], w=normal(8, 8), b=normal(8))
    model = onnx.load(str(path))
    model.graph.output[0].name = "z"
    onnx.save(model, str(path))
    folded = load(path).folded
    assert folded is not None
    names = {tensor.name for tensor in folded.graph.initializer} - {"w", "b"}
    assert names  # such as the shape that a product has before its bias is fused
    assert not names & {"gemm_input_shape", "gemm_output_shape"}
