"""One executable for several shapes: calls of each are right, and so are those that fit none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper
from typer.testing import CliRunner

from tests.agreement import one_thread
from tests.models import TARGET, Shape, normal, runs, save
from tilewright.cli import app
from tilewright.compare.peers import bucket_model
from tilewright.compiling.build import build
from tilewright.errors import ShapeError
from tilewright.executable.executable import Executable, load_executable
from tilewright.executable.manifest import read_manifest
from tilewright.frontend.load import load, load_buckets
from tilewright.frontend.shapes import ShapeRequest
from tilewright.graph.buckets import Buckets, extract_buckets
from tilewright.graph.tasks import extract
from tilewright.records.memory import MemoryStore
from tilewright.tuning.budget import Budget
from tilewright.tuning.final_race import compare_runtime
from tilewright.tuning.incumbent import build_incumbent
from tilewright.tuning.session import tune
from tilewright.verify.checker import Checker

pytestmark = runs

SHAPES = [{"x": (1, 8, 10, 10)}, {"x": (4, 8, 10, 10)}, {"x": (1, 8, 10, 16)}]


def open_conv(path: Path) -> Path:
    """A convolution of images of any number and width."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    output: Shape = ["N", 16, 10, "W"]
    return save(path, nodes, {"x": ["N", 8, 10, "W"]}, output, w=normal(16, 8, 3, 3), b=normal(16))


def agrees(executable: Executable, model: Path, *shape: int) -> None:
    """The outputs for inputs of a shape are ONNX Runtime's."""
    x = normal(*shape, seed=3)
    (found,) = executable(x)
    session = onnxruntime.InferenceSession(str(model), one_thread(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model, and its executable with three buckets."""
    folder = tmp_path_factory.mktemp("buckets")
    model = open_conv(folder / "m.onnx")
    build(extract_buckets(load_buckets(model, SHAPES), TARGET), {}, folder / "out", {})
    return model, folder / "out"


def test_calls_of_every_shape_are_right(built: tuple[Path, Path]) -> None:
    model, out = built
    executable = load_executable(out)
    assert executable.inputs[0].shape == (-1, 8, 10, -1)
    assert executable.outputs[0].shape == (-1, 16, 10, -1)
    assert [bucket.inputs[0].shape for bucket in executable.buckets] == [shapes["x"] for shapes in SHAPES]
    for shapes in SHAPES:
        agrees(executable, model, *shapes["x"])
    agrees(executable, model, 3, 8, 10, 10)  # padded
    agrees(executable, model, 2, 8, 10, 12)  # by ONNX Runtime
    with pytest.raises(ShapeError, match="the model takes other inputs"):
        executable(normal(1, 8, 10, 0))


def test_buckets_share_weights_and_a_library(built: tuple[Path, Path], tmp_path: Path) -> None:
    model, out = built
    build(extract(load(model, SHAPES[0]), TARGET), {}, tmp_path / "one", {})
    one, several = (json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "one", out))
    assert (one["format"], several["format"]) == (2, 3)
    assert "buckets" not in one
    with np.load(tmp_path / "one/weights.npz") as alone, np.load(out / "weights.npz") as shared:
        assert len(alone.files) == len(shared.files)
    assert [bucket["padding"] for bucket in several["buckets"]] == [[{"inputs": {"x": 0}, "outputs": {"y": 0}}]] * 3
    kept = onnx.load(str(out / several["model"])).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in kept] == ["N", 8, 10, "W"]


def test_without_its_model_other_shapes_are_refused(built: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for file in built[1].iterdir():
        if file.name != "model.onnx":
            (out / file.name).write_bytes(file.read_bytes())
    executable = load_executable(out)
    agrees(executable, built[0], 1, 8, 10, 16)
    with pytest.raises(ShapeError, match=r"takes x \[1, 8, 10, 10\] or .*, but x \[1, 8, 10, 12\]"):
        executable(normal(1, 8, 10, 12))


def test_tasks_of_buckets_weigh_by_shares(tmp_path: Path) -> None:
    networks = load_buckets(open_conv(tmp_path / "m.onnx"), SHAPES[:2])
    extraction = extract_buckets(networks, TARGET, [3.0, 1.0])
    assert isinstance(extraction, Buckets)
    one, four = (sum(use.weight * use.task.flop for use in part.uses) for part in extraction.parts)
    assert extraction.factors[0] * one == pytest.approx(3.0 * extraction.factors[1] * four)
    assert {use.task.key for use in extraction.uses} == {u.task.key for part in extraction.parts for u in part.uses}


def test_equal_tasks_of_two_buckets_are_one(tmp_path: Path) -> None:
    """Only one of two inputs has an open dimension, so the other's operators are the same in both buckets."""
    nodes = [
        helper.make_node("Conv", ["a", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["c"], ["m"]),
        helper.make_node("Add", ["b", "m"], ["y"]),
    ]
    inputs: dict[str, Shape] = {"a": [1, 8, 10, 10], "b": ["N"]}
    path = save(tmp_path / "m.onnx", nodes, inputs, [1, 1, 1, "N"], w=normal(16, 8, 3, 3))
    extraction = extract_buckets(load_buckets(path, [{"b": (5,)}, {"b": (7,)}]), TARGET)
    shared = set.intersection(*({use.task.key for use in part.uses} for part in extraction.parts))
    assert any(use.task.key in shared and "conv" in use.task.name for use in extraction.uses)


def test_a_tuned_executable_has_all_buckets_and_is_judged_on_samples(tmp_path: Path) -> None:
    model = open_conv(tmp_path / "m.onnx")
    samples: tuple[dict[str, NDArray[Any]], ...] = ({"": normal(2, 8, 10, 10)}, {"": normal(1, 8, 10, 16)})
    shapes = ShapeRequest(whole=tuple({"": s[""].shape} for s in samples), shares=(4.0, 1.0), samples=samples)
    result = tune(model, tmp_path / "out", budget=Budget(seconds=1.0), target=TARGET, shapes=shapes)
    assert result.report.verdict is not None
    assert result.report.verdict.right, result.report.verdict.evidence
    assert "in each of 2 buckets" in result.report.verdict.evidence
    assert [bucket.shapes for bucket in result.report.buckets] == ["x=2,8,10,10", "x=1,8,10,16"]
    for shape in ((2, 8, 10, 10), (1, 8, 10, 16)):
        agrees(result.executable, model, *shape)


def test_a_fixed_value_stays_in_the_signature(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["rate"], ["f"], to=1), helper.make_node("Mul", ["x", "f"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, {"x": [4], "rate": []}, [4])
    model = onnx.load(str(path))
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, str(path))
    network = load(path, ShapeRequest(values={"rate": (3,)}))
    executable = build(extract(network, TARGET), {}, tmp_path / "out", {})
    assert [spec.name for spec in executable.inputs] == ["x", "rate"]
    x = normal(4)
    for arguments in ((x, 3), (x, np.array(3)), (x,)):
        np.testing.assert_allclose(executable(*arguments)[0], 3 * x)
    for named in ({"x": x, "rate": 3}, {"rate": 3, "x": x}, {"x": x}):
        np.testing.assert_allclose(executable(**named)[0], 3 * x)
    with pytest.raises(ShapeError, match="tuned with rate=3, but 4 was given; tune again with --fix rate=4"):
        executable(x, 4)


def test_other_runtimes_get_the_model_of_a_bucket(built: tuple[Path, Path], tmp_path: Path) -> None:
    found = bucket_model(built[1], 2, tmp_path)
    assert found is not None
    shape = onnx.load(str(found)).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [1, 8, 10, 16]


def test_run_takes_any_shape_of_a_bucket(built: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", normal(1, 8, 10, 16))
    done = CliRunner().invoke(app, ["run", str(built[1]), "--input", str(tmp_path / "x.npy")])
    assert done.exit_code == 0, done.output
    assert "1x16x10x16" in done.output
    np.save(tmp_path / "x.npy", normal(1, 8, 11, 16))
    assert CliRunner().invoke(app, ["run", str(built[1]), "--input", str(tmp_path / "x.npy")]).exit_code == 2


def test_onnx_runtime_may_run_the_model_in_some_buckets_only(tmp_path: Path) -> None:
    """Where ONNX Runtime is faster in one bucket, the others stay compiled, and all outputs stay right."""
    model = open_conv(tmp_path / "m.onnx")
    networks = load_buckets(model, SHAPES[:2])
    with Checker(networks, 10.0) as checker:
        built = build_incumbent(extract_buckets(networks, TARGET), checker, tmp_path, MemoryStore())
        whole = built.workshop.build_runtime()
        assert whole is not None
        mixed = built.workshop.mix(built.executable, whole, [1])
    assert mixed is not None
    assert mixed.verdict.right
    manifest = read_manifest(mixed.folder)
    assert [len(bucket["segments"]) for bucket in manifest["buckets"]] == [0, 1]
    executable = load_executable(mixed.folder)
    for shapes in SHAPES[:2]:
        agrees(executable, model, *shapes["x"])
    raced = compare_runtime(mixed.folder, whole.folder, 1, shares=(0.5, 0.5))
    assert raced is not None
    assert raced[0].ratio > 0
