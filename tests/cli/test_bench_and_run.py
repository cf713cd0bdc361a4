"""``bench`` and ``run`` on a stand-in for an executable, in this process; the real one is tested with ``network``."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from tilewright.cli import app
from tilewright.compare import peers
from tilewright.compare.peers import OnnxRuntimePeer
from tilewright.executable.manifest import FORMAT, LIBRARY, WEIGHTS, seal
from tilewright.tensor import TEXTS, Array, TensorSpec


@dataclass
class Doubler:
    """Takes x of (2, 3), gives 2x."""

    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", (2, 3), "float32"),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", (2, 3), "float32"),)

    def __call__(self, *arrays: Array) -> list[Array]:
        return [2 * arrays[0]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A directory with a manifest and a reference model that adds x to itself."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "twice", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    for name in (LIBRARY, WEIGHTS):
        (tmp_path / name).write_text("a stand-in")
    entries: dict[str, Any] = {"format": FORMAT, "inputs": [], "outputs": [], "plan": None, "model": "model.onnx"}
    (tmp_path / "manifest.json").write_text(seal(entries, tmp_path, [LIBRARY, WEIGHTS, "model.onnx"]))
    return tmp_path


@pytest.fixture
def doubler(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("tilewright.executable.executable")
    module.load_executable = lambda _path: Doubler()
    monkeypatch.setitem(sys.modules, "tilewright.executable.executable", module)


def ours(out: str) -> OnnxRuntimePeer:
    return OnnxRuntimePeer(str(Path(out) / "model.onnx"))


def test_bench_reports_each_peer_and_the_one_that_fails(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "executable", ours)
    report = out / "b.json"
    arguments = [str(out), "--against", "onnxruntime", "--against", "untuned", "--target", "llvm:fantasy"]
    done = CliRunner().invoke(
        app, ["bench", *arguments, "--blocks", "4", "--block-seconds", "0.02", "--json", str(report)]
    )
    assert done.exit_code == 0, done.output
    result = json.loads(report.read_text())
    assert result["median_ms"].keys() == {"tilewright", "onnxruntime"}
    entry = result["peers"]["onnxruntime"]
    assert result["ratio"] == {"onnxruntime": entry["ratio"]}
    assert 0 < entry["min_ms"] <= entry["median_ms"]
    assert entry["ratio_low"] <= entry["ratio"] <= entry["ratio_high"]
    assert entry["difference"] == 0
    assert result["peers"]["untuned"]["error"]
    assert "untuned could not be timed: " in done.output


@pytest.mark.parametrize(("options", "caches"), [([], "warm"), (["--target", "native:cold"], "cold")])
def test_bench_says_how_the_caches_were(
    out: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], caches: str
) -> None:
    monkeypatch.setattr(peers, "executable", ours)
    report = out / "b.json"
    turns = ["--blocks", "2", "--block-seconds", "0.02", "--json", str(report)]
    done = CliRunner().invoke(app, ["bench", str(out), *turns, *options])
    assert done.exit_code == 0, done.output
    assert json.loads(report.read_text())["caches"] == caches
    assert f"{caches} caches" in done.output


def test_bench_without_a_reference_model(out: Path) -> None:
    (out / "model.onnx").unlink()
    done = CliRunner().invoke(app, ["bench", str(out), "--against", "onnxruntime"])
    assert done.exit_code == 2
    assert "holds none" in done.output


@pytest.mark.parametrize("name", [LIBRARY, WEIGHTS, "model.onnx", "manifest.json"])
def test_bench_refuses_what_was_changed_after_it_was_written(out: Path, name: str) -> None:
    data = bytearray((out / name).read_bytes())
    data[len(data) // 3] ^= 1
    (out / name).write_bytes(data)
    done = CliRunner().invoke(app, ["bench", str(out), "--against", "onnxruntime"])
    assert done.exit_code == 2, done.output
    assert name in done.output


def test_bench_refuses_a_model_elsewhere(out: Path) -> None:
    (out / "model.onnx").rename(out.parent / "elsewhere.onnx")
    (out / "model.onnx").symlink_to(out.parent / "elsewhere.onnx")
    done = CliRunner().invoke(app, ["bench", str(out), "--against", "onnxruntime"])
    assert done.exit_code == 2
    assert "is a link to" in done.output


@pytest.mark.usefixtures("doubler")
def test_run_reads_and_writes_arrays(tmp_path: Path) -> None:
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, np.ones((2, 3), np.float32))
    done = CliRunner().invoke(app, ["run", str(tmp_path), "--input", str(x), "--output", str(y)])
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load(y), np.full((2, 3), 2, np.float32))


@pytest.mark.usefixtures("doubler")
@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones((3, 2), np.float32), "shape (2, 3)"),
        (np.ones((2, 3)), "astype('float32')"),
        (np.asarray([[None] * 3] * 2), "is not"),
    ],
)
def test_run_refuses_other_arrays(tmp_path: Path, array: Array, says: str) -> None:
    x = tmp_path / "x.npy"
    np.save(x, array)
    done = CliRunner().invoke(app, ["run", str(tmp_path), "--input", str(x)])
    assert done.exit_code == 2
    assert says in done.output


@dataclass
class Repeater:
    """Takes texts s of (2,), gives each of them twice."""

    inputs: tuple[TensorSpec, ...] = (TensorSpec("s", (2,), TEXTS),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("t", (2,), TEXTS),)

    def __call__(self, *arrays: Array) -> list[Array]:
        (texts,) = arrays
        assert texts.dtype == object
        return [np.array([text + text for text in texts.tolist()], dtype=object)]


def test_run_takes_and_gives_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("tilewright.executable.executable")
    module.load_executable = lambda _path: Repeater()
    monkeypatch.setitem(sys.modules, "tilewright.executable.executable", module)
    s, t = tmp_path / "s.npy", tmp_path / "t.npy"
    np.save(s, np.array(["ab", "c"]))
    done = CliRunner().invoke(app, ["run", str(tmp_path), "--input", str(s), "--output", str(t)])
    assert done.exit_code == 0, done.output
    assert "'abab' .. 'cc'" in done.output
    assert np.load(t).tolist() == ["abab", "cc"]
    for array in (np.ones(2), np.array([b"ab", b"c"]), np.array(["ab", "c"], dtype=object)):
        np.save(s, array)
        done = CliRunner().invoke(app, ["run", str(tmp_path), "--input", str(s)])
        assert done.exit_code == 2
        assert ".astype('str')" in done.output


@pytest.mark.usefixtures("doubler")
def test_run_refuses_what_is_no_array_and_a_wrong_number(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"no array")
    for arguments, says in ((["--input", str(tmp_path / "x.npy")], "numpy.save"), ([], "takes 1 input ")):
        done = CliRunner().invoke(app, ["run", str(tmp_path), *arguments])
        assert done.exit_code == 2
        assert says in done.output
