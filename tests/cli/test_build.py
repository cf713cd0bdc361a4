"""``tilewright build``: an executable without tuning, for this machine or another one, or one message."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser
from typer.testing import CliRunner

from tests.conformance.lane_cases import CASES
from tests.executables import read as read_json
from tests.foreign import ARM, arm_target
from tests.models import conv_model, read, runs
from tilewright.cli import app
from tilewright.executable.executable import load_executable
from tilewright.executable.program import PlanProgram
from tilewright.graph.tasks import extract
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.ops.registry import make_space
from tilewright.records import open_store
from tilewright.space.configs import sample
from tilewright.target import Target
from tilewright.tuning.algorithms import stages

#: ONNX Runtime runs NonZero, since the shape of its result is not known.
PARTLY = "g (float[3,9] x) => (int64[2,n] y, float[3,9] z) {a = Relu(x) y = NonZero(a) z = Exp(x)}"
cross = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="the package ziglang is not installed")


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "records.db"
    monkeypatch.setenv("TILEWRIGHT_RECORDS", str(path))
    return path


def call(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["build", *map(str, arguments)])
    return done.exit_code, done.output


@runs
def test_an_executable_for_this_machine_is_judged(tmp_path: Path, records: Path) -> None:
    code, said = call(conv_model(tmp_path / "m.onnx"), "--out", tmp_path / "out", "--json", tmp_path / "r.json")
    assert code == 0, said
    assert json.loads((tmp_path / "r.json").read_text())["verdict"]["outcome"] == "right"
    assert read_json(tmp_path / "out")["verdict"]["outcome"] == "right"
    assert not records.exists()


@runs
def test_a_convolution_is_computed_in_the_way_that_is_fastest_on_record(tmp_path: Path, records: Path) -> None:
    path, target = conv_model(tmp_path / "m.onnx"), Target.parse("native")
    record_winograd(path, target, target.key)
    code, said = call(path, "--out", tmp_path / "out")
    assert code == 0, said
    assert "outputs: right" in said
    program = load_executable(tmp_path / "out").program
    assert isinstance(program, PlanProgram)
    assert any("winograd" in kernel for kernel in program.kernels)


@cross
def test_the_ways_that_are_fastest_on_record_are_used_for_another_machine(tmp_path: Path) -> None:
    path = conv_model(tmp_path / "m.onnx")
    record_winograd(path, arm_target(), "cortex-a76-4x-0123456789ab")
    for mcpu, ways in (("cortex-a76", True), ("cortex-a72", False)):
        code, said = call(path, "--target", f"llvm:{mcpu}:aarch64-linux-gnu", "--out", tmp_path / mcpu)
        assert code == 0, said
        assert ("winograd" in json.dumps(read_json(tmp_path / mcpu)["plan"])) is ways


def record_winograd(path: Path, target: Target, key: str) -> None:
    """Records of a machine on which Winograd's algorithm is faster than the direct one."""
    ((convolution, _),) = extract(read(path), target).convolutions
    with open_store(path.with_name("records.db")) as store:
        for algorithm in convolution.algorithms[:2]:
            for task in stages(convolution, algorithm):
                space, seconds = make_space(task, target), 1e-3 if algorithm == "direct" else 1e-5
                store.describe(task)
                config = tuple(space.default().tolist())
                store.add([Measurement(task.key, key, space.template, config, Outcome.OK, (seconds,))])


def record_best(path: Path, key: str, places: Sequence[int]) -> list[str]:
    """Records of another machine: of some tasks, a config that is not the default. Returns the names of the tasks."""
    extraction = extract(read(path), arm_target())
    with open_store(path.with_name("records.db")) as store:
        for place in places:
            task = extraction.uses[place].task
            space = make_space(task, arm_target())
            configs = [c for c in sample(space, np.random.default_rng(0), 3) if not np.array_equal(c, space.default())]
            store.describe(task)
            store.add([Measurement(task.key, key, space.template, tuple(configs[0].tolist()), Outcome.OK, (1e-3,))])
    return [extraction.uses[place].task.name for place in places]


@cross
def test_recorded_schedules_of_the_same_cpu_are_used_for_another_machine(tmp_path: Path) -> None:
    path = CASES["convolution"].write(tmp_path / "m.onnx")
    record_best(path, "cortex-a76-4x-0123456789ab", [0])
    code, said = call(path, "--target", ARM, "--out", tmp_path / "out", "--json", tmp_path / "r.json")
    assert code == 0, said
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["recorded_tasks"], report["triple"]) == (1, "aarch64-linux-gnu")
    assert report["verdict"]["outcome"] == "not decidable"
    assert "outputs: not decidable; code for aarch64-linux-gnu does not run here" in said
    assert read_json(tmp_path / "out")["target"]["cores"] == 4
    again, said = call(path, "--target", "llvm:cortex-a72:aarch64-linux-gnu", "--out", tmp_path / "out")
    assert again == 0
    assert "0 with schedules from the records" in said


def refuse(tmp_path: Path, *arguments: object) -> str:
    code, said = call(*arguments, "--out", tmp_path / "out")
    assert code == 2, said
    assert not (tmp_path / "out").exists()
    assert len(said.strip().splitlines()) == 1
    return said


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("cortex-a76", "a target is 'native', 'llvm:MCPU' such as llvm:core-avx2, or 'llvm:MCPU:TRIPLE', but this is"),
        ("llvm:cortex-a99:aarch64-linux-gnu", "LLVM knows no CPU called 'cortex-a99' for aarch64-linux-gnu; near it"),
        (
            "llvm:cortex-a76:foo-bar",
            "a triple of Linux on aarch64 or x86_64, such as llvm:cortex-a76:aarch64-linux-gnu",
        ),
        ("llvm:cortex-a76:aarch64-apple-darwin", "a triple of Linux on aarch64 or x86_64"),
        ("llvm:znver3:aarch64-linux-gnu", "LLVM knows no CPU called 'znver3' for aarch64-linux-gnu; name one"),
        (
            "llvm:cortex-a76",
            "for this machine; name one of its, or generic; a CPU of another platform needs its triple",
        ),
    ],
)
def test_targets_that_there_are_not(target: str, says: str, tmp_path: Path) -> None:
    assert says in refuse(tmp_path, conv_model(tmp_path / "m.onnx"), "--target", target)


def test_without_a_compiler_for_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = conv_model(tmp_path / "m.onnx")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "ziglang" else find(name, *more)
    )
    monkeypatch.setenv("PATH", "/nowhere")
    assert "pip install 'tilewright[cross]'" in refuse(tmp_path, model, "--target", ARM)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("llvm:sapphirerapids:x86_64-linux-gnu", "multiply bfloat16 numbers with vdpbf16ps"),
        (ARM, "--precision bf16 changes nothing: no product of few rows"),
    ],
)
def test_bfloat16_for_a_target_with_and_without_its_instruction(target: str, says: str, tmp_path: Path) -> None:
    model, report = conv_model(tmp_path / "m.onnx"), tmp_path / "r.json"
    code, said = call(model, "--precision", "bf16", "--target", target, "--out", tmp_path / "out", "--json", report)
    assert code == 0, said
    assert says in json.loads(report.read_text())["notes"][0]


def test_precisions_that_cannot_be_built(tmp_path: Path) -> None:
    said = refuse(tmp_path, conv_model(tmp_path / "m.onnx"), "--precision", "auto")
    assert "--precision of build is float32 or bf16, but this is 'auto'" in said


@cross
def test_a_network_that_needs_onnx_runtime(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{PARTLY}'), tmp_path / "m.onnx")
    said = refuse(tmp_path, tmp_path / "m.onnx", "--target", ARM)
    assert "holds compiled kernels only, but ONNX Runtime would run a part of m: NonZero" in said
    assert "export a model without these operators, or tune on that platform" in said


def test_tuning_for_another_machine_names_this_command(tmp_path: Path) -> None:
    command = ["tune", str(conv_model(tmp_path / "m.onnx")), "--target", ARM, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "does not run here; tune there, or build without tuning with: tilewright build" in done.output
