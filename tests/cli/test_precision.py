"""``tilewright tune --precision`` and ``--reference``: what they refuse before anything is tuned, and their cost."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from onnx import helper
from typer.testing import CliRunner

from tests.models import conv_model, normal, runs, save
from tilewright.cli import app
from tilewright.processor import cache_sizes
from tilewright.records import open_store
from tilewright.records.store import Query


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("m.onnx", ["--precision", "bf61"], "float32, bf16 or auto, but this is 'bf61'; did you mean 'bf16'?"),
        ("m.onnx", ["--precision", "bf16", "--fix", "x=1"], "--fix cannot be combined"),
        ("m.onnx", ["--precision", "bf16", "--fleet", "local"], "tuned on this machine"),
        ("m.pt2", ["--precision", "bf16"], "takes an ONNX file"),
        ("m.pt2", ["--precision", "auto"], "--precision auto takes an ONNX file"),
        ("m.onnx", ["--precision", "auto", "--fleet", "local"], "--precision auto is for one model"),
        ("m.onnx", ["--precision", "auto", "--max-error", "0"], "above 0 and below 1, but this is 0; try 0.01"),
        ("m.onnx", ["--precision", "auto", "--max-error", "nan"], "above 0 and below 1, but this is nan"),
        ("m.onnx", ["--precision", "auto", "--max-error", "10"], "above 0 and below 1, but this is 10"),
        ("m.onnx", ["--precision", "bf16", "--max-error", "0.1"], "but the precision is bf16; add --precision auto"),
        ("m.onnx", ["--max-error", "0.1"], "but the precision is float32; add --precision auto"),
        ("m.onnx", ["--reference", "missing.onnx"], "missing.onnx cannot be read"),
        ("m.onnx", ["--reference", "m.onnx", "--fix", "x=1"], "--fix cannot be combined"),
        ("m.onnx", ["--reference", "m.onnx", "--fleet", "local"], "tuned on this machine"),
        ("m.pt2", ["--reference", "m.pt2"], "compares two ONNX files"),
    ],
)
def test_what_is_refused(name: str, options: list[str], says: str, tmp_path: Path) -> None:
    model = conv_model(tmp_path / name)
    out = tmp_path / "out"
    options = [str(tmp_path / option) if option == name else option for option in options]
    done = CliRunner().invoke(app, ["tune", str(model), "--budget", "5s", "--out", str(out), *options])
    assert done.exit_code == 2
    assert says in done.output
    assert not out.exists()


@runs
@pytest.mark.parametrize(("trials", "chooses"), [(42, True), (3, False)])
def test_what_chooses_precisions_is_part_of_the_trials(trials: int, chooses: bool, tmp_path: Path) -> None:
    side = 16 * math.ceil(math.sqrt(cache_sizes()[1] / 4) / 16 + 1)  # more than the second cache holds
    weight = normal(side, side)
    model = save(
        tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, side]}, [1, side], w=weight
    )
    records, report = tmp_path / "r.db", tmp_path / "r.json"
    options = ["--precision", "auto", "--max-error", "0.5", "--trials", str(trials), "--cost-model", "none", "--quiet"]
    places = ["--out", str(tmp_path / "out"), "--records", str(records), "--json", str(report)]
    done = CliRunner().invoke(app, ["tune", str(model), *options, *places])
    assert done.exit_code == 0, done.output
    told = json.loads(report.read_text())
    with open_store(records) as store:
        measured = len(list(store.scan(Query())))
    assert (told["precision_trials"] > 0) is chooses
    assert told["trials"] > 0
    assert told["precision_trials"] + told["trials"] <= measured <= trials
    (product,) = told["precisions"]
    assert (product["float32_ms"] is not None) is chooses
    assert any("measured within the budget" in note for note in told["notes"]) is not chooses
