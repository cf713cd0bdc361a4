"""The bench of verdicts: its mutants are mistakes, and it says when one was missed or a right model was refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import verdict
from bench._equivalence import BEYOND_ROUNDING, inputs_of_our_own, times_rounding
from bench._judged import Judged, NetworkReport
from bench._mutators import MUTATORS, mutants
from bench._small_networks import SMALL
from tests.agreement import one_thread
from tilewright.frontend.network import Network
from tilewright.tensor import TensorSpec
from tilewright.verify.verdict import Outcome, Verdict

RIGHT = Verdict(Outcome.RIGHT, 1e-7, 2, "float64", "agrees")
WRONG = Verdict(Outcome.WRONG, 0.5, 2, "float64", "differs")
UNDECIDABLE = Verdict(Outcome.UNDECIDABLE, None, 0, "", "no reference")


def judged(found: Verdict | None, kind: str = "", **more: Any) -> Judged:
    return Judged("onnxruntime", kind, "conv0", found, "agrees" if found is RIGHT else "differs", **more)


def ran(monkeypatch: pytest.MonkeyPatch, path: Path, *found: Judged) -> tuple[int, dict[str, Any]]:
    """The bench's exit code and file where a network's verdicts are ``found``."""
    report = NetworkReport(
        "unet", "float64", 2, rights=[j for j in found if not j.kind], mutants=[j for j in found if j.kind]
    )
    monkeypatch.setattr(verdict, "judge_network", lambda *_: report)
    monkeypatch.setattr(sys, "argv", ["verdict", "--networks", "unet", "--json", str(path)])
    with pytest.raises(SystemExit) as ended:
        verdict.main()
    written = json.loads(path.read_text())
    assert isinstance(written, dict)
    return int(ended.value.code or 0), written


def test_the_exit_code_is_0_where_mutants_are_caught_and_right_models_accepted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = Judged("tilewright", "plan: a call missing", "dense", None, "its process ended", ran=False)
    found = (judged(RIGHT), judged(WRONG, "negated weights"), built)
    code, report = ran(monkeypatch, tmp_path / "v.json", *found)
    assert code == 0
    told = {key: report[key] for key in ("mutants", "caught", "right_models", "falsely_refused", "problems")}
    assert told == {"mutants": 2, "caught": 2, "right_models": 1, "falsely_refused": 0, "problems": []}
    assert {"command", "machine", "threads", "date", "seconds", "first_check", "undecidable"} <= set(report)
    kept = report["networks"]["unet"]["mutants"][0]
    assert (kept["kind"], kept["site"], kept["outcome"], kept["evidence"]) == (
        "negated weights",
        "conv0",
        "wrong",
        "differs",
    )


@pytest.mark.parametrize(
    "bad",
    [
        judged(RIGHT, "negated weights", factor=11.0),
        judged(WRONG, "negated weights", ran=False),
        judged(UNDECIDABLE, "negated weights"),
        judged(WRONG),
        judged(None),
        judged(UNDECIDABLE),
    ],
    ids=["missed", "no-mutant", "mutant-undecided", "refused", "ended", "undecided"],
)
def test_the_exit_code_is_1_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bad: Judged) -> None:
    code, report = ran(monkeypatch, tmp_path / "v.json", judged(RIGHT), judged(WRONG, "bias lost"), bad)
    assert code == 1
    assert len(report["problems"]) == 1


def test_equivalent_mutants_and_imprecise_runtimes_are_listed_and_not_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = judged(RIGHT, "bias lost", factor=0.5), judged(WRONG, imprecise=True)
    code, report = ran(monkeypatch, tmp_path / "v.json", *found)
    assert (code, report["mutants"], report["right_models"], report["falsely_refused"]) == (0, 0, 0, 0)
    assert report["equivalent"] == ["unet: bias lost (conv0, onnxruntime), 0.5 times rounding"]
    assert len(report["imprecise"]) == 1


def test_a_network_that_ends_in_an_error_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = NetworkReport("unet", "float64", 2, rights=[judged(RIGHT)])

    def judge(subject: Any, *_: Any) -> NetworkReport:
        if subject.name == "encoder":
            raise ValueError("no reference")
        return right

    monkeypatch.setattr(verdict, "judge_network", judge)
    report = verdict.run(["encoder", "unet"], {}, tmp_path / "v.json")
    assert report["errors"] == {"encoder": "ValueError: no reference"}
    assert list(report["networks"]) == ["unet"]
    assert report["problems"] == ["an error: encoder: ValueError: no reference"]


def test_each_mistake_is_one_that_some_network_can_have() -> None:
    kinds: set[str] = set()
    for make in SMALL.values():
        kinds |= {mutant.kind for mutant in mutants(make())}
    assert kinds == set(MUTATORS)


@pytest.mark.parametrize("make", [SMALL["unet"], SMALL["embedding"]], ids=["unet", "embedding"])
def test_mutants_are_the_same_each_time_and_run(make: Callable[[], Any]) -> None:
    import onnxruntime

    original = make()
    first, again = list(mutants(original)), list(mutants(original))
    assert [m.model.SerializeToString() for m in first] == [m.model.SerializeToString() for m in again]
    assert len({m.model.SerializeToString() for m in first} | {original.SerializeToString()}) == len(first) + 1
    for mutant in first:
        session = onnxruntime.InferenceSession(
            mutant.model.SerializeToString(), one_thread(), providers=["CPUExecutionProvider"]
        )
        feeds = {
            spec.name: np.ones(spec.shape, np.float32 if spec.type == "tensor(float)" else np.int64)
            for spec in session.get_inputs()
        }
        shapes = [output.shape for output in session.run(None, feeds)]
        assert shapes == [tuple(d.dim_value for d in o.type.tensor_type.shape.dim) for o in original.graph.output]


def test_a_small_network_is_judged_with_its_executables(tmp_path: Path) -> None:
    report = verdict.run(["tiny_outputs"], {}, tmp_path / "v.json")
    assert report["problems"] == []
    assert report["mutants"] == report["caught"] >= 20
    assert report["mutants_by_runtime"]["tilewright"] >= 6
    assert (report["right_models"], report["falsely_refused"]) == (3, 0)
    (check,) = report["first_check"]
    assert check["total"] >= check["incumbent"] + check["judging"] > 0
    assert check["reference"] > 0


def test_a_mutant_is_told_from_rounding_by_what_right_programs_differ_by() -> None:
    exact = np.array([1e9, 1e-9])
    right = exact * (1 + 1e-6)

    def factor(changed: Any) -> float:
        return times_rounding([[exact]], [[np.asarray(changed)]], [[[exact]], [[right]]])

    assert factor(right) <= 1
    assert 2 < factor(exact * (1 + 5e-6)) < BEYOND_ROUNDING
    assert factor([1e9, 2e-9]) > 1e5  # far from the largest element, but not from its own rounding
    assert factor([1e9, np.nan]) == factor([1e9]) == factor([1, 2]) == np.inf


def test_inputs_of_our_own_are_floats_of_several_sizes_and_integers_that_are_accepted() -> None:
    specs = (TensorSpec("x", (100,), "float32"), TensorSpec("ids", (3,), "int64"))
    network = Network("n", None, specs, (), {})
    made = list(inputs_of_our_own(network, [np.zeros(100, np.float32), np.array([5, 0, 2])], 4))
    assert {tuple(sorted(ids)) for _, ids in made} == {(0, 2, 5)}
    assert len({round(float(np.std(x.astype(np.float64)))) for x, _ in made}) >= 3
    assert {x.dtype for x, _ in made} == {np.dtype(np.float32)}
