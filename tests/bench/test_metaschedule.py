"""MetaSchedule's networks compute what they should, with records and without, and a run goes on only with its own."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from bench import metaschedule
from bench._metaschedule import LAYOUTS, _tasks, _Watch, build_as_of, prepare
from bench._resumable import PROGRESS, TASKS, Settings, State
from tests.agreement import network_error
from tests.models import normal, read, save
from tilewright.errors import RecordsFormatError, TilewrightError
from tilewright.executable.executable import load_executable
from tilewright.target import Target
from tilewright.tvm_compat import light_tensor_intrinsics

#: A run of MetaSchedule is for this machine.
TARGET = Target.parse()


def two_convolutions(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"]),
    ]
    weights = {"w": normal(16, 8, 3, 3), "b": normal(16), "v": normal(32, 16, 1, 1)}
    return save(path, nodes, {"x": (1, 8, 10, 10)}, (1, 32, 10, 10), **weights)


def record_one_schedule_each(folder: Path, model: Path, layout: str) -> int:
    """A database as a run leaves it; returns how many records it has."""
    light_tensor_intrinsics()
    from tvm.s_tir import meta_schedule as ms

    contexts, _ = _tasks(folder, prepare(read(model), TARGET, layout), TARGET, 1)
    database = ms.database.JSONDatabase(work_dir=str(folder))
    for context in contexts:
        schedule = context.generate_design_space()[-1]
        assert all(postproc.apply(schedule) for postproc in context.space_generator.postprocs)
        workload = database.commit_workload(context.mod)
        arguments = ms.arg_info.ArgInfo.from_entry_func(context.mod, remove_preproc=True)
        database.commit_tuning_record(
            ms.database.TuningRecord(schedule.trace, workload, [0.001], TARGET.tvm, arguments)
        )
    return len(contexts)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_computes_the_same_by_its_records(tmp_path: Path, layout: str) -> None:
    model, folder = two_convolutions(tmp_path / "m.onnx"), tmp_path / "run"
    folder.mkdir()
    State(Settings(str(model), 16, layout)).save(folder)
    count = record_one_schedule_each(folder, model, layout)
    assert count >= 2
    progress = [{"seconds": 1.0, "records": 0}, {"seconds": 60.0, "records": count}]
    (folder / PROGRESS).write_text("".join(json.dumps(entry) + "\n" for entry in progress))
    for seconds, untuned in ((30.0, count), (60.0, 0)):
        out = tmp_path / f"out{seconds:g}"
        assert build_as_of(folder, seconds, out, tmp_path / f"work{seconds:g}") == untuned
        executable = load_executable(out)
        error = network_error(executable, read(model))
        assert error is not None
        assert error < 1e-5
        assert executable.manifest["packed_at_run"] == []


def test_a_run_keeps_its_tasks(tmp_path: Path) -> None:
    model = two_convolutions(tmp_path / "m.onnx")
    light_tensor_intrinsics()
    module = prepare(read(model), TARGET, "NCHW")
    first, weights = _tasks(tmp_path, module, TARGET, 1)
    entries = json.loads((tmp_path / TASKS).read_text())
    work = [entry["weight"] * entry["gflop"] for entry in entries]
    assert work == sorted(work, reverse=True)
    assert [entry["weight"] for entry in entries] == weights
    (tmp_path / TASKS).write_text(json.dumps(entries[::-1]))
    assert [c.task_name for c in _tasks(tmp_path, module, TARGET, 2)[0]] == [c.task_name for c in first[::-1]]
    (tmp_path / TASKS).write_text(json.dumps(entries[:-1]))
    with pytest.raises(RecordsFormatError, match=r"those of .* are not the network's; choose another --dir"):
        _tasks(tmp_path, module, TARGET, 3)


def arguments(folder: Path, **changes: Any) -> argparse.Namespace:
    values = {"model": "squeezenet", "trials_per_iter": 16, "layout": "NCHW", "target": "native", "seed": 0}
    return argparse.Namespace(dir=folder, **(values | changes))


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    with pytest.raises(TilewrightError, match="holds no run; give it --model"):
        metaschedule.state_of(arguments(tmp_path, model=None))
    state = metaschedule.state_of(arguments(tmp_path / "run"))
    assert metaschedule.state_of(arguments(tmp_path / "run")) == state
    assert metaschedule.state_of(arguments(tmp_path / "run", model=None)) == state
    for change in ({"trials_per_iter": 64}, {"layout": "NHWC"}, {"model": "resnet50"}):
        with pytest.raises(TilewrightError, match="a run goes on as it began"):
            metaschedule.state_of(arguments(tmp_path / "run", **change))


def test_the_summary_tells_what_went_wrong(tmp_path: Path) -> None:
    assert metaschedule.summary(tmp_path) == "nothing tuned"
    entry = {"seconds": 120.0, "records": 32, "failed": 3, "missing": 1, "latency_ms": None}
    (tmp_path / PROGRESS).write_text(json.dumps(entry) + "\n")
    failures = [("build", "slow"), ("build", "slow"), ("run", "crash")]
    lines = [json.dumps({"task": 0, "stage": stage, "error": error}) for stage, error in failures]
    (tmp_path / "failures.jsonl").write_text("\n".join(lines) + "\n")
    assert metaschedule.summary(tmp_path).splitlines() == [
        "120 s, 32 records, 3 of them failed, 1 tasks without any; sum of the best kernels: unknown",
        "2 x build: slow",
        "1 x run: crash",
    ]


def test_what_computes_something_else_is_told() -> None:
    latencies = dict.fromkeys(("min_ms", "median_ms", "ratio", "ratio_low", "ratio_high"), 1.0)
    differences = {"a": 1e-6, "b": 4.4, "c": math.nan, "d": None}
    entrants: dict[str, Any] = {name: {**latencies, "difference": off} for name, off in differences.items()}
    entrants["e"] = {"error": "no memory"}
    *_, b, c, e = metaschedule.text({"entrants": entrants, "threads": 2, "machine": "toy"}).splitlines()
    assert b == "b computes something else than onnxruntime: another model, or other weights"
    assert c.startswith("c computes something else")
    assert e == "e could not be timed: no memory"


def test_the_tuner_ends_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children = tmp_path / "children"
    boot = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(children)!r}, "w").write(str(child.pid))
os.write(({{arguments}})[1], b"1")
time.sleep(600)
"""
    monkeypatch.setattr(metaschedule, "_BOOT", boot)
    with (tmp_path / "log.txt").open("ab") as log:
        tuner = metaschedule._Tuner(tmp_path, str(tmp_path), log)
        assert tuner.wait_until_ready() >= 0
        assert tuner.sleep(0.01)
        tuner.end()
    tuner.check()
    child = int(children.read_text())
    deadline = time.monotonic() + 120
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break  # dead, and whoever inherits it has not looked yet
        time.sleep(0.05)
    else:
        assert not os.path.exists(f"/proc/{child}")


def test_a_tuner_that_fails_says_why(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("ab") as log:
        tuner = metaschedule._Tuner(tmp_path, str(tmp_path), log)  # where there is no run
        with pytest.raises(TilewrightError, match=r"tuning ended early: exit code 1: .*a run begins with its settings"):
            tuner.wait_until_ready()
        tuner.end()


@pytest.mark.parametrize(("stops", "tries"), [(0, 1), (1, 2), (9, 3)])
@pytest.mark.parametrize("fails", [False, True])
def test_work_that_was_stopped_in_is_done_again(stops: int, tries: int, fails: bool) -> None:
    now, done = [0.0], []
    watch = _Watch(clock=lambda: now[0])

    def work() -> str:
        done.append(1)
        if len(done) <= stops:
            now[0] += 300.0
            if fails:
                raise TimeoutError
        return "done"

    if fails and stops > tries:
        with pytest.raises(TimeoutError):
            watch.undisturbed(work)
    else:
        assert watch.undisturbed(work) == "done"
    assert len(done) == tries


def test_a_time_out_of_its_own_is_reported() -> None:
    def work() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        _Watch(clock=lambda: 0.0).undisturbed(work)


def test_help_needs_no_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, bench.metaschedule; sys.exit('tvm' in sys.modules)"], check=False
    )
    assert done.returncode == 0
