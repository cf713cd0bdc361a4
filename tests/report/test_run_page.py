"""Pages about runs, without a browser: what they say, how large they are, and what they do with damaged files."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from bench.synthetic_run import HOSTILE, make_plan, make_run
from tilewright.errors import OutputError
from tilewright.executable.manifest import NAME, seal
from tilewright.executable.plan import Call, Plan, Tensor
from tilewright.jsonable import to_json_object
from tilewright.report.decoding import decode
from tilewright.report.facts import describe_tasks, find_gain, latency
from tilewright.report.history import parse_events
from tilewright.report.html import render
from tilewright.report.network import draw_network
from tilewright.report.run import Bench, read_bench, read_run
from tilewright.report.run_charts import phase_bands
from tilewright.report.run_page import render_run, run_page
from tilewright.tuning.report import BucketReport, RaceReport, RuntimeRaceReport, TuneReport
from tilewright.tuning.run_events import TaskFunctions
from tilewright.tuning.run_log import LOG, REPORT
from tilewright.verify.verdict import Outcome


def executable(folder: Path) -> Path:
    """The files of an executable that a page reads: a manifest."""
    folder.mkdir()
    manifest = {"format": 2, "name": "net", "inputs": [], "outputs": [], "plan": None}
    (folder / NAME).write_text(seal({**manifest, "verdict": {"outcome": "right", "error": 1e-6}}, folder, []))
    return folder


def test_the_headlines_are_those_of_the_report() -> None:
    run = make_run()
    page = run_page(run)
    assert (page.headlines[0].value, page.headlines[0].unit) == ("1.80", "\u00d7")
    assert "right" in [each.value for each in page.headlines]
    gain = find_gain(run)
    assert gain is not None
    assert gain.name == "before tuning"
    assert latency(run) == pytest.approx(sum(task.best_seconds or 0 for task in run.tasks))


def test_a_race_that_was_lost_is_no_gain() -> None:
    run = make_run()
    race = RaceReport("incumbent", 8.059, 7.98, 1.01, 0.97, 1.05)
    page = run_page(replace(run, bench=None, report=replace(run.report, final_race=race, published="incumbent")))
    assert page.headlines[0].value == "no gain"
    assert "not raced" not in page.headlines[0].detail
    assert "which were kept" in page.sections[0].lead[0]


def test_a_run_without_races_says_that_its_gain_is_not_known() -> None:
    run = make_run()
    bare = replace(run.report, final_race=None, runtime_race=None, before_seconds=None, after_seconds=None)
    assert "the gain is not known" in run_page(replace(run, bench=None, report=bare)).sections[0].lead[0]
    assert "the gain is not known" not in " ".join(run_page(run).sections[0].lead)


def test_what_onnx_runtime_wins_is_said() -> None:
    run = make_run()
    race = RuntimeRaceReport("onnxruntime", 9.0, 6.0, 1.5, 1.4, 1.6)
    report = replace(run.report, runtime_race=race, final_race=None, published="onnxruntime")
    page = run_page(replace(run, bench=None, report=report))
    assert any("so ONNX Runtime runs it" in sentence for sentence in page.sections[0].lead)
    assert all(not each.good for each in page.headlines)


def test_the_shares_of_the_tasks_are_those_of_the_kernels_in_their_places() -> None:
    facts = describe_tasks(make_run())
    assert sum(each.share or 0.0 for each in facts) == pytest.approx(1.0)
    assert all(each.in_place for each in facts)
    assert facts == sorted(facts, key=lambda each: -(each.seconds or 0.0))
    assert all(0.0 <= each.saving <= (each.seconds or 0.0) - (each.bound or 0.0) for each in facts)


def test_a_long_run_of_a_large_network_fits() -> None:
    for tasks, trials in ((150, 200), (400, 40)):
        assert len(render_run(make_run(tasks, trials)).encode()) < 1.5e6


def test_names_cannot_leave_their_places() -> None:
    text, plain = (render(run_page(run)) for run in (make_run(4, name=HOSTILE, task_name=HOSTILE), make_run(4)))
    assert [text.count(sign) for sign in ("<img", "</script>")] == [plain.count(sign) for sign in ("<img", "</script>")]
    assert "49" not in text.split("<h1>")[1].split("</h1>")[0]  # {{7*7}} is a text


def test_nothing_is_fetched() -> None:
    text = unescape(render(run_page(make_run())))
    assert "connect-src 'none'" in text
    own = text.split("<script>")[0] + text.split("<script>")[-1]
    assert "http://" not in own
    assert "src=" not in own.replace("script-src", "")


def test_an_executable_of_an_earlier_version_shows_what_it_has(tmp_path: Path) -> None:
    run = read_run(executable(tmp_path / "out"))
    assert not run.known
    assert run.verdict is not None
    assert run.verdict.outcome is Outcome.RIGHT
    assert "earlier version" in render(run_page(run))


def test_a_report_and_a_log_are_read_from_the_directory(tmp_path: Path) -> None:
    out = executable(tmp_path / "out")
    (out / REPORT).write_text(json.dumps(to_json_object(make_run().report)))
    (out / LOG).write_text(
        '{"event":"phase","t":1.5,"name":"rounds"}\nno event\n{"event":"latency","t":2,"seconds":0.5}\n'
    )
    run = read_run(out)
    assert run.report == make_run().report
    assert [phase.name for phase in run.history.phases] == ["rounds"]
    assert [(each.t, each.seconds) for each in run.history.latencies] == [(2.0, 0.5)]
    assert run.history.unread == 1
    assert "1 line of the log cannot be read, so its course has gaps." in run.lacks


@pytest.mark.parametrize("text", ["", "[", "[1, 2]", "\x00", '{"tasks": 7}' * 2])
def test_a_damaged_report_is_an_error_or_an_empty_report(tmp_path: Path, text: str) -> None:
    out = executable(tmp_path / "out")
    (out / REPORT).write_text(text)
    if text.startswith("[1"):
        assert read_run(out).report == TuneReport()
    else:
        with pytest.raises(OutputError, match="JSON"):
            read_run(out)


def test_a_plan_whose_calls_name_no_tensors_is_not_drawn(tmp_path: Path) -> None:
    out = executable(tmp_path / "out")
    plan = Plan(0, (), (Call("k", (0, 1), 1),), (), ()).to_json()
    manifest = {"format": 2, "name": "net", "inputs": [], "outputs": [], "plan": plan}
    (out / NAME).write_text(seal(manifest, out, []))
    run = read_run(out)
    assert (run.plan, run.nodes) == (None, ())
    render(run_page(run))


def test_a_number_of_trials_that_none_can_be_saves_nothing() -> None:
    run = make_run()
    tasks = tuple(replace(task, trials=-1, recorded=0, exhausted=False) for task in run.report.tasks)
    facts = describe_tasks(replace(run, report=replace(run.report, tasks=tasks)))
    assert {each.saving for each in facts} == {0.0}


def test_fields_of_other_types_and_versions_become_empty() -> None:
    content = to_json_object(make_run(2).report)
    content |= {"trials": "many", "verdict": {"error": 1.0}, "unknown": 1, "notes": ["a", 7], "cores": True}
    del content["curve"]
    task = content["tasks"]
    assert isinstance(task, list)
    assert isinstance(task[0], dict)
    del task[0]["touched_bytes"], task[0]["rounds"]
    report = decode(TuneReport, content)
    assert (report.trials, report.notes, report.cores, report.curve) == (0, (), 0, ())
    assert report.verdict is None, "no outcome is no verdict, least of all a good one"
    assert (report.tasks[0].touched_bytes, report.tasks[0].rounds) == (None, 0)
    assert report.tasks[1] == make_run(2).report.tasks[1]


def test_events_of_a_damaged_log_are_passed_over() -> None:
    lines = [
        "",
        "{",
        "null",
        '{"event": "phase"}',
        '{"event": "what"}',
        '{"event": "round", "t": 1, "task": "a", "trials": 3}',
    ]
    history = parse_events([*lines, '{"event": "latency", "t": NaN, "seconds": 1}'])
    assert history.unread == 4
    assert render(run_page(replace(make_run(2), history=history)))


def test_a_bench_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text('{"trials": 3}')
    with pytest.raises(OutputError, match="peers"):
        read_bench(path)
    with pytest.raises(OutputError, match=r"missing\.json cannot be read as one: .*; name another file with --bench"):
        read_bench(tmp_path / "missing.json")


def test_calls_read_what_the_last_ones_wrote_to_the_same_bytes() -> None:
    """In, a -> b and c side by side in the bytes of d, which reads both; then a's bytes are used again."""
    tensors = [("a", 0, 64), ("in", 64, 64), ("b", 128, 32), ("c", 160, 32), ("d", 128, 64), ("e", 0, 64)]
    places = tuple(Tensor("arena", place, (size // 4,), "float32") for _, place, size in tensors)
    calls = (Call("f", (1, 0), 1), Call("g", (0, 2), 1), Call("h", (0, 3), 1), Call("", (5, 4)), Call("g", (5, 2), 1))
    nodes = draw_network(Plan(256, places, calls, (1,), (5,)), [TaskFunctions("k", "name", ("g",))])
    assert [node.reads for node in nodes] == [(), (0,), (0,), (1, 2), (3,)]
    assert [node.depth for node in nodes] == [0, 1, 1, 2, 3]
    assert [node.lane for node in nodes] == [0, -0.5, 0.5, 0, 0]
    assert [node.task for node in nodes] == ["", "k", "", "", "k"]


def test_names_of_phases_stand_where_they_fit() -> None:
    history = parse_events(
        f'{{"event": "phase", "t": {t}, "name": "{name}"}}'
        for t, name in ((0, "limits of the machine"), (2, "rounds"), (27, "end"))
    )
    assert [(band["name"], band["named"]) for band in phase_bands(history.ended(), 27.0)] == [
        ("limits of the machine", False),
        ("rounds", True),
    ]


def test_a_short_run_has_a_headline_that_fits() -> None:
    page = run_page(replace(make_run(), bench=Bench(2.67e-4)))
    assert ("0.267", "\u00b5s") in [(each.value, each.unit) for each in page.headlines]


def test_an_executable_with_several_buckets_shows_each(tmp_path: Path) -> None:
    """The graph is that of the bucket with the largest share of the tuning."""
    out = executable(tmp_path / "out")
    buckets = [
        {
            "inputs": [{"name": "x", "shape": [n, 3], "dtype": "float32"}],
            "outputs": [],
            "plan": plan.to_json(),
            "segments": [],
            "padding": [],
        }
        for n, plan in ((1, make_plan(3)), (8, make_plan(5)))
    ]
    manifest = {"format": 3, "name": "net", "inputs": [], "outputs": [], "plan": None, "buckets": buckets}
    (out / NAME).write_text(seal(manifest, out, []))
    reports = (BucketReport("x=1x3", 0.5, 3, 1e-3), BucketReport("x=8x3", 1.5, 5, None))
    (out / REPORT).write_text(json.dumps(to_json_object(replace(make_run().report, buckets=reports))))
    bench = tmp_path / "b.json"
    one = {"executable": {"median_ms": 2.0}, "peers": {"onnxruntime": {"median_ms": 4.0, "ratio": 0.5}}}
    bench.write_text(json.dumps({"buckets": [{"shapes": "x=1,3", **one}, {"shapes": "x=8,3", **one}]}))
    run = read_run(out, bench)
    assert (run.drawn, len(run.nodes)) == ("x=8x3", 5)
    page = run_page(run)
    shapes = next(each for each in page.sections if each.name == "shapes")
    assert shapes.tables[0].rows == (("x=1x3", "25 %", "3", "1.00"), ("x=8x3", "75 %", "5", "\u2013"))
    assert shapes.tables[1].rows[1] == ("x=8,3", "2.00", "2.00\u00d7")
    assert render(page)
    assert "shapes" not in [each.name for each in run_page(make_run()).sections]


def test_tasks_of_a_quantised_network_have_their_instructions() -> None:
    run = make_run(3)
    names = ("vpdpbusd", "plain code", "")
    tasks = tuple(replace(task, instruction=name) for task, name in zip(run.report.tasks, names, strict=True))
    page = render(run_page(replace(run, report=replace(run.report, tasks=tasks))))
    assert all(text in page for text in ('<th scope="col">instruction</th>', "vpdpbusd", "plain code"))
    assert '<th scope="col">instruction</th>' not in render(run_page(run))
