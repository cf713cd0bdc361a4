"""``tilewright quantize`` writes a quantised model, or one message that says why not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from tests.models import conv_model, normal, save
from tilewright.cli import app


@pytest.fixture
def model(tmp_path: Path) -> Path:
    np.savez(tmp_path / "samples.npz", x=normal(5, 1, 8, 10, 10))
    return conv_model(tmp_path / "m.onnx")


def quantize(model: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    report = model.with_name("report.json")
    done = CliRunner().invoke(app, ["quantize", str(model), *options, "--json", str(report)])
    return done.exit_code, done.output, json.loads(report.read_text())


def count(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def scales(path: Path) -> int:
    """The number of scales of the convolution's weights."""
    graph = onnx.load(path).graph
    numbers = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (conv,) = (node for node in graph.node if node.op_type == "Conv")
    (made,) = (node for node in graph.node if conv.input[1] in node.output)
    return int(numbers[made.input[1]].size)


def test_a_static_model(model: Path) -> None:
    code, said, report = quantize(model, "--calibrate", str(model.with_name("samples.npz")))
    assert code == 0, said
    out = Path(report["out"])
    assert out == model.with_name("m.int8.onnx")
    assert scales(out) == 16
    assert (report["calibrated"], report["judged"], report["held_out"]) == (4, 1, True)
    (output,) = report["outputs"]
    assert output["cosine"] > 0.999
    assert 0 < output["largest_relative_error"] < 0.05
    assert report["bytes_after"] < report["bytes_before"]
    assert {path.name for path in model.parent.iterdir()} == {"m.onnx", "m.int8.onnx", "samples.npz", "report.json"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The quantised model, where no option says how."""
    folder = tmp_path_factory.mktemp("plain")
    np.savez(folder / "samples.npz", x=normal(5, 1, 8, 10, 10))
    code, said, report = quantize(conv_model(folder / "m.onnx"), "--calibrate", str(folder / "samples.npz"))
    assert code == 0, said
    return Path(report["out"]).read_bytes()


@pytest.mark.parametrize(
    "option", ["--method=entropy", "--method=percentile", "--symmetric", "--per-tensor", "--reduce-range"]
)
def test_options_change_the_model(model: Path, option: str, plain: bytes) -> None:
    other = model.with_name("other.onnx")
    samples = ["--calibrate", str(model.with_name("samples.npz"))]
    assert quantize(model, *samples, "--out", str(other), option)[0] == 0
    assert other.read_bytes() != plain
    if option == "--per-tensor":
        assert scales(other) == 1


def test_dynamic_needs_no_samples(model: Path) -> None:
    code, said, report = quantize(model, "--dynamic")
    assert code == 0, said
    assert "were not compared" in said
    assert count(Path(report["out"]))["ConvInteger"] == 1
    _, said, report = quantize(model, "--dynamic", "--calibrate", str(model.with_name("samples.npz")))
    assert report["judged"] == 5
    assert report["outputs"][0]["cosine"] > 0.999
    assert "calibrated" not in said
    _, said, report = quantize(model, "--dynamic", "--random")
    assert "outputs are compared on random numbers" in said
    assert "calibrated" not in said


def test_outputs_of_zeros_have_no_cosine(model: Path) -> None:
    save(model, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [4, 8]}, [4, 8], w=np.zeros((8, 8), np.float32))
    said = quantize(model, "--random")[1]
    assert any(line.split() == ["y", "-", "0"] for line in said.splitlines())


def test_random_samples_are_for_speed(model: Path) -> None:
    code, said, report = quantize(model, "--random")
    assert code == 0
    assert report["random"]
    assert "outputs are of no use" in said
    one = Path(report["out"]).read_bytes()
    assert quantize(model, "--random", "--seed", "1")[0] == 0
    assert Path(report["out"]).read_bytes() != one
    conv_model(model, "batch")
    code, said, _ = quantize(model, "--random")
    assert code == 2
    assert "--shape" in said
    assert quantize(model, "--random", "--shape", "batch=2")[0] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "numpy.savez('samples.npz', x=array)"),
        (["--exclude", "first_", "--random"], "did you mean 'first'?"),
        (["--only", "Cov", "--random"], "did you mean 'Conv'?"),
        (["--exclude", "first", "--random"], "no operator of this one can"),
        (["--exclude", "Conv", "--dynamic"], "no operator of this one can"),
        (["--method", "best"], "minmax, entropy or percentile"),
        (["--dynamic", "--symmetric"], "compute"),
        (["--dynamic", "--shape", "x=1"], "--random is missing"),
        (["--out", "/nowhere/at/all.onnx", "--random"], "--out names a file in a directory"),
        (["--out", "/", "--random"], "--out names a new file"),
        (["--out", "/proc/m.onnx", "--random"], "--out names a file in a directory"),
        (["--out", "m" * 300, "--random"], "File name too long"),
        (["--out", "\udcff.onnx", "--random"], "UTF-8"),
    ],
)
def test_wrong_options_end_with_one_message(model: Path, options: list[str], says: str) -> None:
    code, said, report = quantize(model, *options)
    assert code == 2
    assert says in said
    assert says in report["error"]["message"]
    assert not model.with_name("m.int8.onnx").exists()


def test_wrong_samples_end_with_one_message(model: Path) -> None:
    samples = model.with_name("samples.npz")
    np.savez(samples, x=normal(5, 1, 8, 10, 9))
    code, said, _ = quantize(model, "--calibrate", str(samples))
    assert code == 2
    assert "'x' is (1,8,10,10) and the array is (5, 1, 8, 10, 9)" in said
    np.savez(samples, x=normal(5, 1, 8, 10, 10) + 1j)
    assert "complex64; give one of float32" in quantize(model, "--calibrate", str(samples))[1]
    assert quantize(model, "--calibrate", str(model))[0] == 2
    assert quantize(model, "--calibrate", str(samples), "--random")[0] == 2


def test_weights_without_a_range_and_models_without_inputs(model: Path) -> None:
    proto = onnx.load(model)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((16, 8, 3, 3), np.nan, np.float32), "w"))
    onnx.save(proto, model)
    code, said, _ = quantize(model, "--random")
    assert code == 2
    assert "1152 numbers of its weights 'w' are NaN or infinite" in said.replace(",", "")
    save(model, [helper.make_node("MatMul", ["w", "w"], ["y"])], {}, [4, 4], w=normal(4, 4))
    code, said, _ = quantize(model, "--random")
    assert code == 2
    assert "this model has no inputs" in said


def test_it_is_said_why_no_operator_computes_on_integers(model: Path) -> None:
    samples = model.with_name("samples.npz")
    np.savez(samples, x=1e6 * normal(5, 1, 8, 10, 10))
    code, said, _ = quantize(model, "--calibrate", str(samples))
    assert code == 2
    assert "numbers of 1 Conv" in said
    assert "exceed 4096 on the samples" in said
    save(model, [helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 8, 10, 10]}, [1, 8, 10, 10])
    code, said, _ = quantize(model, "--dynamic")
    assert code == 2
    assert "such as Conv and MatMul; use the model as it is" in said
    assert "--exclude" not in said


def test_a_model_is_quantised_once(model: Path) -> None:
    assert quantize(model, "--random")[0] == 0
    code, said, _ = quantize(model.with_name("m.int8.onnx"), "--random")
    assert code == 2
    assert "quantised once" in said
    code, said, _ = quantize(model, "--random", "--out", str(model))
    assert code == 2


def masked_attention(path: Path) -> Path:
    """Scores of an attention, to which the least float32 is added where the mask is 0."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["k"], name="keys"),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "kt"], ["scores"]),
        helper.make_node("Sub", ["one", "mask"], ["hidden"]),
        helper.make_node("Mul", ["hidden", "least"], ["bias"], name="bias"),
        helper.make_node("Add", ["scores", "bias"], ["masked"], name="masking"),
        helper.make_node("Softmax", ["masked"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "x"], ["y"]),
    ]
    constants = {"one": np.ones((), np.float32), "least": np.asarray(np.finfo(np.float32).min)}
    return save(path, nodes, {"x": [1, 6, 8], "mask": [1, 1, 6]}, [1, 6, 8], w=normal(8, 8), **constants)


def test_masks_stay_in_floating_point(tmp_path: Path) -> None:
    """With a mask among the scores, all scores of unmasked tokens would be one byte."""
    model, samples = masked_attention(tmp_path / "m.onnx"), tmp_path / "samples.npz"
    mask = np.ones((10, 1, 1, 6), np.float32)
    mask[..., 4:] = 0.0
    np.savez(samples, x=normal(10, 1, 6, 8), mask=mask)
    for method in ("minmax", "percentile"):
        code, said, report = quantize(model, "--calibrate", str(samples), "--method", method)
        assert code == 0, said
        assert report["wide"] == {"Add": 1, "Mul": 1, "Softmax": 1}
        assert "too large for bytes, as masks are: 1 Add, 1 Mul, 1 Softmax" in said
        assert report["operators"]["MatMul"] == 3
        assert report["outputs"][0]["cosine"] > 0.995


def test_only_some_operators(tmp_path: Path) -> None:
    model, samples = masked_attention(tmp_path / "m.onnx"), tmp_path / "samples.npz"
    np.savez(samples, x=normal(5, 1, 6, 8), mask=np.ones((5, 1, 1, 6), np.float32))
    report = quantize(model, "--calibrate", str(samples), "--only", "MatMul")[2]
    assert (report["operators"]["MatMul"], report["wide"]) == (3, {})
    assert "Softmax" not in report["operators"]
    assert quantize(model, "--calibrate", str(samples), "--exclude", "ke*")[2]["operators"]["MatMul"] == 2
    code, said, _ = quantize(model, "--calibrate", str(samples), "--exclude", "kex*")
    assert (code, "'kex*' is none" in said) == (2, True)
