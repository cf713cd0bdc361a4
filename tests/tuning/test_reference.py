"""Outputs against those of another model: what is compared, and which models do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import normal, save
from tilewright.difference import OutputAccuracy
from tilewright.errors import ModelError, ShapeError
from tilewright.frontend.shapes import ShapeRequest
from tilewright.quantising.accuracy import run_model
from tilewright.quantising.rounding import round_array
from tilewright.tensor import Array
from tilewright.tuning.preparation import Preparation
from tilewright.tuning.reference import compute_here, compute_reference


def product(path: Path, rounded: bool = False, name: str = "x") -> Path:
    weight = normal(16, 8)
    node = helper.make_node("MatMul", [name, "w"], ["y"])
    return save(path, [node], {name: ["batch", 16]}, ["batch", 8], w=round_array(weight) if rounded else weight)


def test_outputs_are_compared_on_the_same_samples(tmp_path: Path) -> None:
    model, other = product(tmp_path / "m.onnx", rounded=True), product(tmp_path / "float.onnx")
    x = normal(3, 16)
    found = compute_reference(other, model, ShapeRequest(whole=({"x": (3, 16)},), samples=({"x": x},)), 0)
    assert (found.model, found.random, found.names) == ("float.onnx", False, ("y",))
    report = found.compare(lambda sample: run_model(model, [sample])[0])
    (output,) = report.outputs
    right = x @ normal(16, 8)
    wrong = np.abs(x @ round_array(normal(16, 8)) - right).max() / np.abs(right).max()
    assert (report.samples, output.name) == (1, "y")
    assert output.largest_relative_error == pytest.approx(wrong, rel=1e-3)
    assert 0.9999 < output.cosine < 1


def test_random_samples_are_of_each_shape(tmp_path: Path) -> None:
    model = product(tmp_path / "m.onnx")
    found = compute_here(model, model, ShapeRequest((("batch", ((1, 4),)),)), 0)
    assert found.random
    assert sorted({len(sample["x"]) for sample in found.samples}) == [1, 4]
    exact = found.compare(lambda sample: run_model(model, [sample])[0])
    assert [o.largest_relative_error for o in exact.outputs] == [0.0]


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = product(tmp_path / "m.onnx")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    wide = save(tmp_path / "wide.onnx", [node], {"x": ["batch", 16]}, ["batch", 4], w=normal(16, 4))
    with pytest.raises(ModelError, match=r"has the inputs of the model that is tuned, x, but .* has z"):
        compute_here(product(tmp_path / "z.onnx", name="z"), model, None, 0)
    with pytest.raises(ModelError, match=r"'y' is \?x4 in .*wide\.onnx, and \?x8 in the model that is tuned"):
        compute_here(wide, model, None, 0)
    with pytest.raises(ShapeError, match="give its shape with --shape"):
        compute_here(model, model, None, 0)


def test_a_failed_comparison_is_a_note(tmp_path: Path) -> None:
    model = product(tmp_path / "m.onnx")
    reference = compute_here(model, model, ShapeRequest((("batch", ((1,),)),)), 0)

    def refuse(sample: object) -> list[Array]:
        raise ShapeError("there is no such bucket")

    report, (note,) = Preparation(reference=reference).compare(refuse)
    assert report is None
    assert note == "the outputs were not compared with those of m.onnx: there is no such bucket"
    assert Preparation().compare(refuse) == (None, ())


def test_the_summary_has_the_comparison() -> None:
    from tilewright.cli.tune import summary
    from tilewright.tuning.report import ReferenceReport, TuneReport

    outputs = (OutputAccuracy("scores", 0.99987, 0.035),)
    said = summary(TuneReport(reference=ReferenceReport("float.onnx", 40, False, outputs)), Path("out"))
    assert "outputs against float.onnx in ONNX Runtime, on 40 samples:" in said
    assert "scores  0.999870                   0.035" in said
