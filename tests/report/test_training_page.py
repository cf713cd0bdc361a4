"""Pages about trainings, without a browser: what they say, and what they do with reports of other versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.synthetic_run import HOSTILE, make_training
from tests.test_writing import small_files
from tilewright.cli import app
from tilewright.errors import OutputError
from tilewright.report.html import render
from tilewright.report.training_comparison import training_comparison
from tilewright.report.training_facts import describe_kernels, gain, rest_seconds
from tilewright.report.training_page import read_training, render_training, training_page
from tilewright.training.results import FORMAT, ProofReport, SlotReport, TrainingReport


def text_of(report: TrainingReport, section: str) -> str:
    found = next(each for each in training_page(report).sections if each.name == section)
    rows = [" ".join(row) for table in found.tables for row in table.rows]
    return "\n".join([*found.lead, *found.points, *rows])


def test_the_headlines_are_those_of_the_steps() -> None:
    report = make_training()
    page = training_page(report)
    assert [(each.value, each.unit) for each in page.headlines[:3]] == [
        ("2.00", "\u00d7"),
        ("300", "ms"),
        ("3 of 4", ""),
    ]
    assert gain(report) == pytest.approx(2.0)
    assert gain(replace(report, before_seconds=float("nan"))) is None
    untouched = tuple(replace(graph, parts=()) for graph in report.graphs)
    assert gain(replace(report, graphs=untouched)) is None, "what runs in PyTorch gains nothing"


def test_what_a_step_takes_besides_its_parts_is_the_rest() -> None:
    report = make_training()
    parts = [part.our_seconds if part.in_ours else part.their_seconds for part in report.parts]
    assert rest_seconds(report) == pytest.approx(0.3 - sum(parts))
    kernels = describe_kernels(report)
    assert len(kernels) == 90
    assert sum(each.facts.share or 0.0 for each in kernels) == pytest.approx(1.0)
    assert all(each.facts.distance is None or each.facts.distance >= 1.0 for each in kernels)


def test_verdicts_and_what_stays_with_pytorch_are_said() -> None:
    report = make_training()
    assert "backward part 1 differs, and is not used" in text_of(report, "trust")
    assert "forward part 1 agrees with PyTorch in another process 3.0e-06 1" in text_of(report, "trust")
    rest = text_of(report, "rest")
    assert "forward native_batch_norm_backward 3" in rest
    assert "backward part 1: its results differ from PyTorch's" in rest
    assert "limits=True" in text_of(replace(report, roofline=None), "machine")


def test_a_file_gives_the_report_again(tmp_path: Path) -> None:
    report, path = make_training(name=HOSTILE), tmp_path / "train.json"
    report.write_json(path)
    assert read_training(path) == report
    assert str(read_training(path)) == str(report)
    report.write_html(tmp_path / "train.html")
    page = (tmp_path / "train.html").read_text(encoding="utf-8")
    assert page == render_training(report)
    assert len(page.encode()) < 1.5e6


def test_the_page_of_a_large_model_fits() -> None:
    assert len(render_training(make_training(parts=60, kernels=200, pieces=400)).encode()) < 1.5e6


def test_what_a_file_of_another_version_lacks_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"format": FORMAT, "graphs": [{"kind": "forward", "parts": [{"name": "p"}]}], "new": 1}))
    report = read_training(path)
    assert report.parts[0].name == "p"
    assert report.slots == SlotReport()
    assert "not compared yet" in text_of(report, "trust")
    assert render(training_page(report))
    assert "has not run yet" in text_of(TrainingReport(()), "gain")


def test_a_state_that_is_no_word_is_empty_and_one_of_a_later_version_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    states: dict[str, object] = {"p": {}, "q": "postponed"}
    parts = [{"name": name, "state": state, "their_seconds": 0.1} for name, state in states.items()]
    path.write_text(json.dumps({"format": FORMAT, "graphs": [{"kind": "forward", "parts": parts}]}))
    assert "postponed" in render(training_page(read_training(path)))


@pytest.mark.parametrize(("name", "value"), [("touched_bytes", -1), ("flop", -1), ("seconds", 1e308)])
def test_figures_of_kernels_that_none_can_have_are_not_drawn(name: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    make_training().write_json(path)
    content = json.loads(path.read_text())
    content["graphs"][0]["parts"][0]["kernels"][0][name] = value
    path.write_text(json.dumps(content))
    assert "Roofline" in render(training_page(read_training(path)))


def test_a_large_difference_that_rounding_explains_is_explained() -> None:
    report = make_training()
    graph = report.graphs[0]
    part = replace(graph.parts[0], proof=ProofReport(True, 0.68))
    report = replace(report, graphs=(replace(graph, parts=(part, *graph.parts[1:])), *report.graphs[1:]))
    assert f"{part.name} agrees as far as rounding allows" in text_of(report, "trust")
    assert "the gradient of a bias before a batch norm" in text_of(report, "trust")
    assert "bias" not in text_of(make_training(), "trust")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "another"}', "\x00"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(content)
    with pytest.raises(OutputError, match=r"train\.json"):
        read_training(path)


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    report, page = tmp_path / "train.json", tmp_path / "train.html"
    make_training().write_json(report)
    page.write_text("<!doctype html> an earlier page")
    with small_files(1000):
        done = CliRunner().invoke(app, ["report", str(report)])
        with pytest.raises(OutputError, match="too large"):
            make_training().write_html(page)
    assert done.exit_code == 2
    assert "cannot be written: File too large; name another file with --html" in done.output
    assert page.read_text() == "<!doctype html> an earlier page"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["train.html", "train.json"]


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name another file"):
        make_training().write_html(tmp_path / "missing" / "train.html")
    with pytest.raises(OutputError, match="name another file"):
        make_training().write_json(tmp_path)


def test_a_notebook_shows_the_parts() -> None:
    shown = make_training(name=HOSTILE)._repr_html_()
    assert "backward part 1" in shown
    assert "<img" not in shown


def test_two_trainings_are_compared() -> None:
    first = make_training()
    second = replace(first, now_seconds=0.15, machine="Another", options={**first.options, "threads": "4"})
    page = training_comparison(first, second)
    assert page.headlines[0].value == "2.00"
    assert "different machines" in page.sections[0].lead[0]
    assert ("threads", "", "4") in page.sections[0].tables[0].rows
    assert page.sections[2].tables[0].rows[3][:3] == ("backward part 1", "in PyTorch", "in PyTorch")
    assert render(page)
    assert training_comparison(TrainingReport(()), TrainingReport(()))


def test_the_command_takes_files_of_trainings(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        make_training().write_json(tmp_path / name)
    a, b, page = str(tmp_path / "a.json"), str(tmp_path / "b.json"), tmp_path / "page.html"
    run = CliRunner().invoke
    assert run(app, ["report", a]).exit_code == 0
    assert "Can I trust the gradients?" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "--html names no file" in run(app, ["report", a, b]).output
    assert run(app, ["report", a, b, "--html", str(page)]).exit_code == 0
    assert "two trainings" in page.read_text(encoding="utf-8")
    assert "an executable; leave it out" in run(app, ["report", a, str(tmp_path)]).output
    written = (tmp_path / "a.json").read_bytes()
    refused = run(app, ["report", a, "--html", a])
    assert (refused.exit_code, (tmp_path / "a.json").read_bytes()) == (2, written)
    assert "--html replaces earlier pages only" in refused.output
    assert run(app, ["report", a, "--html", str(page)]).exit_code == 0, "a page is replaced"
    assert "--bench; leave it out" in run(app, ["report", a, "--bench", a]).output
