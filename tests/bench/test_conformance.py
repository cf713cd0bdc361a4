"""The bench of conformance: what it counts, where it goes on, and what its exit code says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bench import conformance
from bench._kept import Kept
from bench._node_tests import complain, operator_of
from bench._packages import Model, UnreachableError, find_open_shapes

RIGHT = {"outcome": "right", "message": "", "segments": [], "seconds": 0.1}
PASSED, FAILED = {"outcome": "right", "message": ""}, {"outcome": "refused", "message": "no kernel"}


class Side:
    """Stands for both sides: what it answers is the name of the test."""

    def operators(self) -> dict[str, str]:
        return {name: name.partition("_")[0] for name in ("relu_right", "relu_wrong", "scan_fails", "scan_segment")}

    def run(self, name: str, isolated: bool = False) -> dict[str, Any]:
        if name == "relu_wrong":
            return {"outcome": "wrong", "message": "Mismatch", "segments": [], "seconds": 0.1}
        return RIGHT | {"segments": [["Scan (s): no converter"]] if name == "scan_segment" else []}


class Reference(Side):
    def run(self, name: str, isolated: bool = False) -> dict[str, Any]:
        return FAILED if name == "scan_fails" else PASSED


class Here:
    """A process that is none."""

    asked: list[str] = []  # noqa: RUF012 - the test empties it

    def __init__(self, factory: Any, seconds: float) -> None:
        self.made = factory()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, method: str, *arguments: str) -> Any:
        if method == "run" and not isinstance(self.made, Reference):
            self.asked.append(arguments[0])
        return getattr(self.made, method)(*arguments)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tests that Tilewright was asked for."""
    monkeypatch.setattr(conformance, "Watched", Here)
    monkeypatch.setattr(conformance, "OurSide", Side)
    monkeypatch.setattr(conformance, "TheirSide", Reference)
    Here.asked.clear()
    return Here.asked


def ran(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        conformance.main(list(arguments))
    return int(ended.value.code or 0)


def test_node_tests_are_counted_by_what_onnx_runtime_passes(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran("--parts", "nodes", "--json", str(tmp_path / "c.json")) == 1
    nodes = json.loads((tmp_path / "c.json").read_text())["nodes"]
    counts = {key: nodes[key] for key in ("tests", "reference_passes", "right", "wrong", "crashed", "refused")}
    assert counts == {"tests": 4, "reference_passes": 3, "right": 2, "wrong": 1, "crashed": 0, "refused": 0}
    assert nodes["without_segment"] == 1
    assert nodes["others"]["right"] == 1
    assert nodes["names"] == {"wrong": {"relu_wrong": "Mismatch"}}
    assert nodes["with_segment"] == {"scan_segment": ["Scan (s): no converter"]}
    said = capsys.readouterr().out
    assert "relu: wrong: Mismatch [relu_wrong]" in said
    assert "scan: segment: Scan: no converter [scan_segment]" in said
    assert "PROBLEM: nodes: 2 of 3 right, less than 99%" in said


def test_it_goes_on_where_it_was_stopped(asked: list[str], tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    ran("--parts", "nodes", "--shard", "2/2", "--resume", str(kept))
    assert asked == ["relu_wrong", "scan_segment"]
    with kept.open("a") as file:
        file.write('{"part": "nodes", "na')  # killed while writing
    ran("--parts", "nodes", "--resume", str(kept))
    assert asked[2:] == ["relu_right", "scan_fails"]
    ran("--parts", "nodes", "--resume", str(kept), "--again")
    assert asked[4:] == ["scan_fails", "relu_wrong"]
    ran("--parts", "nodes", "--only", "right$")
    assert asked[6:] == ["relu_right"]


def test_models_that_cannot_be_had_are_skipped_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Sources:
        def __init__(self, name: str) -> None:
            self.name = name

        def models(self, cache: Path) -> Iterator[Model]:
            if self.name == "far":
                raise UnreachableError("far cannot be downloaded: no route")
            yield Model(self.name, cache / self.name, {})

    def judge(path: Path, shapes: object, values: object) -> dict[str, Any]:
        outcome = "wrong" if path.name == "odd" else "right"
        about = {"segments": [["Loop: values"]] if path.name == "parted" else [], "operators": 3, "left_out": 1}
        return {"outcome": outcome, "message": "because", "seconds": 1.0, **about}

    monkeypatch.setattr(conformance, "judge_apart", judge)
    monkeypatch.setattr(conformance, "MODELS", [Sources(name) for name in ("near", "far", "parted")])
    arguments = ("--parts", "models", "--json", str(tmp_path / "c.json"), "--cache", str(tmp_path))
    assert ran(*arguments) == 1  # one of two has a segment
    models = json.loads((tmp_path / "c.json").read_text())["models"]
    assert (models["tried"], models["right"], models["without_segment"]) == (2, 2, 1)
    assert models["skipped"] == {"far": "far cannot be downloaded: no route"}
    assert "parted  right" in capsys.readouterr().out
    monkeypatch.setattr(conformance, "MODELS", [Sources("near")])
    assert ran(*arguments) == 0
    monkeypatch.setattr(conformance, "MODELS", [Sources(name) for name in ("near", "odd")])
    assert ran(*arguments) == 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b"])
def test_a_shard_is_one_of_its_number(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("--shard", shard) == 2
    assert "a shard is 1/16 to 16/16" in capsys.readouterr().err


def test_shards_are_all_tests_once() -> None:
    names = [str(number) for number in range(10)]
    shards = [conformance.pick_shard(names, number, 3) for number in (1, 2, 3)]
    assert sorted(name for shard in shards for name in shard) == names
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_an_expanded_test_is_about_its_own_operator() -> None:
    operators = {"test_gelu_tanh_1": "Gelu"}
    names = ("test_gelu_tanh_1", "test_gelu_tanh_1_expanded", "test_gelu_tanh_1_expanded_ver18", "test_other")
    assert [operator_of(name, operators) for name in names] == ["Gelu", "Gelu", "Gelu", "?"]


def test_outputs_are_compared_with_their_dtypes_shapes_and_nan() -> None:
    ones = np.ones(3, dtype=np.float32)
    nan = np.asarray([1, np.nan, 1], dtype=np.float32)
    texts = np.asarray(["a", "b"], dtype=object)
    for alike in ([ones], [nan], [texts], [[ones, nan]], [None, ones], []):
        assert complain(alike, alike, 1e-3, 1e-7) == ""
    for expected, found in (
        ([ones], [ones.astype(np.float64)]),
        ([ones], [ones[None]]),
        ([ones], [nan]),
        ([ones], [ones * 1.01]),
        ([texts], [texts[::-1]]),
        ([ones], [ones, ones]),
        ([None], [ones]),
        ([[ones]], [ones]),
    ):
        assert complain(expected, found, 1e-3, 1e-7)


def test_open_inputs_get_the_shapes_that_are_known(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, None]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph), str(path))
    assert find_open_shapes(path, {"x": (1, 1, 8), "z": (1,)}) == {"x": (1, 3, 8)}
    for known in ({}, {"x": (1, 8)}):
        with pytest.raises(UnreachableError, match="no shape is known for its input 'x'"):
            find_open_shapes(path, known)


def test_kept_results_are_replaced_by_later_ones(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept.jsonl")
    kept.add("nodes", "a", {"outcome": "wrong"})
    kept.add("models", "a", {"outcome": "refused"})
    kept.add("nodes", "a", {"outcome": "right"})
    for same in (kept, Kept(tmp_path / "kept.jsonl")):
        assert same.all("nodes") == {"a": {"outcome": "right"}}
        assert same.get("models", "a") == {"outcome": "refused"}
        assert same.get("models", "b") is None
