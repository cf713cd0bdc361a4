"""Kernels of a training run become better while it goes on, and the next run begins with them."""

from __future__ import annotations

import json
import logging
import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.models import Residual, in_float64, step, torch, worst_gradient
from tilewright.executable.executable import load_executable
from tilewright.frontend.load import load_part
from tilewright.graph.tasks import extract
from tilewright.measure.isolated import IsolatedProcess
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.ops.registry import make_space
from tilewright.records import open_store
from tilewright.report.training_page import read_training
from tilewright.space.configs import sample
from tilewright.target import Target
from tilewright.training import optimize, report, worker
from tilewright.training.cache import key_of
from tilewright.training.live import LivePart
from tilewright.training.options import Options
from tilewright.training.orders import Prepared, Request
from tilewright.training.parts import divide
from tilewright.training.preparing import Preparation
from tilewright.training.progress import Progress

nn = torch.nn
pytestmark = pytest.mark.usefixtures("fresh")


def make_perceptron() -> Any:
    """A model with two products."""
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))


def train(model: Any, steps: int = 2, **options: str) -> Any:
    """Train a compiled model, whose gradients must be right. Returns its parts."""
    exact = in_float64(model)
    compiled = optimize(model, **options)
    for _ in range(steps):
        x = torch.randn(4, 16)
        model.zero_grad()
        exact.zero_grad()
        step(compiled, x)
        step(exact, x.double())
        assert worst_gradient(model, exact) < 1e-4
    return [part for graph in report(model).graphs for part in graph.parts]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of a perceptron that has trained, with its executables beside them."""
    records = tmp_path_factory.mktemp("kept") / "records.db"
    torch.compiler.reset()
    parts = train(make_perceptron(), mode="now", budget="1s", records=str(records))
    assert {part.state for part in parts} == {"running"}
    return records


def test_the_next_run_needs_no_compiler_and_no_process(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "IsolatedProcess", None)
    monkeypatch.setattr(worker, "_workers", {})  # nor one that is there
    for mode in ("cached", "now"):
        torch.compiler.reset()
        model = make_perceptron()
        assert {part.state for part in train(model, mode=mode, budget="1s", records=str(kept))} == {"running"}, mode


@pytest.mark.parametrize("kind", ["damaged", "foreign"])
def test_a_cache_that_cannot_be_used_is_ignored(kind: str, kept: Path) -> None:
    entries = sorted(path for path in Path(f"{kept}.executables").iterdir() if path.is_dir())
    assert entries
    for entry in entries:
        if kind == "damaged":
            (entry / "kernels.so").write_bytes(b"nothing")
        else:
            (entry / "manifest.json").write_text("{}", encoding="utf-8")
    parts = train(make_perceptron(), mode="now", budget="1s", records=str(kept))
    assert {part.state for part in parts} == {"running"}
    assert load_executable(entries[0]).manifest["plan"]  # it was written again


def test_a_key_holds_threads_and_shapes() -> None:
    part = divide(trace(8))[1][0]
    live = LivePart(part, "part")
    keys = {key_of(part.module, live.inputs, live.outputs, threads) for threads in (1, 2)}
    other = divide(trace(9))[1][0]
    keys.add(key_of(other.module, LivePart(other, "part").inputs, live.outputs, 1))
    assert len(keys) == 3


def trace(batch: int) -> Any:
    """The graph of a product and an activation."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def compute(x: Any, w: Any, b: Any) -> Any:
        return (torch.ops.aten.relu.default(torch.ops.aten.addmm.default(b, x, w)),)

    return make_fx(compute, tracing_mode="fake")(torch.randn(batch, 64), torch.randn(64, 64), torch.randn(64))


def test_records_of_another_machine_decide_nothing(tmp_path: Path) -> None:
    part = divide(trace(32))[1][0]
    live = LivePart(part, "part")
    request = Request("part", pickle.dumps(part.module), live.inputs, live.outputs, key="part")
    target = Target.parse()
    extraction = extract(load_part("part", part.module, live.inputs, live.outputs), target)
    measured = []
    for use in extraction.uses:
        space = make_space(use.task, target)
        other = next(row for row in sample(space, np.random.default_rng(0), 8) if (row != space.default()).any())
        config = tuple(int(index) for index in other)
        measured.append(Measurement(use.task.key, target.key, space.template, config, Outcome.OK, (1e-9,), "", 0.0))
    tuned = []
    for number, name in enumerate(("another", target.key)):
        records = tmp_path / f"{number}.db"
        with open_store(records) as store:
            store.add([replace(measurement, target=name) for measurement in measured])
        preparation = Preparation(Options(mode="now", budget="1s", records=str(records)), tmp_path)
        tuned.append(preparation.prepare(request).tuned)
    assert tuned[0] == 0
    assert tuned[1] > 0


def test_a_part_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    part = divide(trace(64))[1][0]
    live = LivePart(part, "part")
    request = Request("part", pickle.dumps(part.module), live.inputs, live.outputs, key="part")
    broken = replace(request, module=b"no pickle", key="broken")
    preparation = Preparation(Options(mode="background"), tmp_path)
    preparation.announce([request, broken])
    assert preparation.prepare(request).out.is_dir()
    with pytest.raises(pickle.UnpicklingError):
        preparation.prepare(broken)


def test_a_process_that_replaces_another_one_keeps_its_executables(tmp_path: Path) -> None:
    """A step may still load them, or wait for their proof."""
    requests = []
    for batch in (8, 9):
        part = divide(trace(batch))[1][0]
        live = LivePart(part, "part")
        requests.append(Request("part", pickle.dumps(part.module), live.inputs, live.outputs, key=f"batch{batch}"))
    preparation = Preparation(Options(mode="background"), tmp_path)
    built = [preparation.prepare(request).out for request in requests]
    shapes = [[spec.shape for spec in load_executable(out).inputs] for out in built]
    preparation = Preparation(Options(mode="background"), tmp_path)
    for request in reversed(requests):
        assert preparation.prepare(request).out not in built
    assert [[spec.shape for spec in load_executable(out).inputs] for out in built] == shapes


def test_variants_are_timed_in_their_places_and_the_fastest_stays(tmp_path: Path) -> None:
    part = divide(trace(64))[1][0]
    live = LivePart(part, "part")
    x = tuple(torch.randn(*layout.shape) for layout in live.inputs)
    wanted = live(list(x))[0]
    preparation = Preparation(Options(mode="background"), tmp_path)
    request = Request("part", pickle.dumps(part.module), live.inputs, live.outputs, key="part")
    prepared = preparation.prepare(request)
    live.offer(load_executable(prepared.out))
    for call in range(1000):  # it is proven, and then timed
        torch.testing.assert_close(live(list(x))[0], wanted, rtol=1e-4, atol=1e-4)
        if call > 1 and live.kernel_seconds:
            break
    assert live.kernel_seconds
    live.counts.their_seconds.clear()  # whatever PyTorch takes, the contest is held
    (proposal,) = preparation.propose({"part": live.kernel_seconds})
    assert all(len(names) > 1 for names in proposal.variants.values())
    assert all(proposal.expected[name] > 0.0 for names in proposal.variants.values() for name in names[1:])
    contest = live.hold_contest(load_executable(proposal.out), proposal.variants, proposal.expected)
    assert contest is not None
    for call in range(10_000):
        torch.testing.assert_close(live(list(x))[0], wanted, rtol=1e-4, atol=1e-4)
        if call > 98 and contest.over.is_set():
            break
    assert contest.over.is_set()
    assert all(times for variants in contest.times.values() for times in variants.values())
    # As if each variant were twice as fast as what it stands for.
    times = {k: {name: [1.0 - 0.5 * (name != k)] * 3 for name in names} for k, names in contest.times.items()}
    improved = preparation.conclude("part", times, 1.0)
    assert isinstance(improved, Prepared)
    assert improved.tuned >= 1
    live.offer(load_executable(improved.out), improved.checked)
    before = live.counts.theirs
    torch.testing.assert_close(live(list(x))[0], wanted, rtol=1e-4, atol=1e-4)
    assert live.counts.theirs == before  # nothing is proven once more


def test_a_killed_process_costs_no_training(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PREPARING", 0.0)  # the process need not wait for its slots
    made: list[IsolatedProcess] = []

    class Noted(IsolatedProcess):
        def __init__(self, *arguments: Any, **others: Any) -> None:
            super().__init__(*arguments, **others)
            made.append(self)

        def call(self, method: str, *arguments: object, **others: Any) -> Any:
            if len(made) == 1:
                self.kill()
            return super().call(method, *arguments, **others)

    monkeypatch.setattr(worker, "IsolatedProcess", Noted)
    model = make_perceptron()
    exact = in_float64(model)
    compiled = optimize(model, budget="3s")
    states, end = set[str](), time.monotonic() + 300
    with caplog.at_level(logging.ERROR, "tilewright.training"):
        while states != {"running"} and time.monotonic() < end:
            x = torch.randn(4, 16)
            model.zero_grad()
            exact.zero_grad()
            step(compiled, x)
            step(exact, x.double())
            assert worst_gradient(model, exact) < 1e-4
            states = {part.state for graph in report(model).graphs for part in graph.parts}
            time.sleep(0.02)
    assert len(made) == 2
    assert states == {"running"}  # another process has done it


def test_parts_change_together_and_no_step_computes_one_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward pass in PyTorch would be slow, if the forward pass saved blocks already."""
    monkeypatch.setattr(worker, "PREPARING", 0.0)  # the process need not wait for its slots
    model = Residual()
    exact = in_float64(model)
    compiled = optimize(model, budget="5m", records=None)
    # At one in thousands of inputs PyTorch's own gradients are not exact: an activation lies at 0.
    batches = [torch.randn(2, 3, 16, 16) for _ in range(100)]
    changes: list[dict[str, str]] = []
    states: dict[str, str]
    end, steps = time.monotonic() + 300, 0
    while not changes or (set(changes[-1].values()) != {"running"} and time.monotonic() < end):
        x = batches[steps % len(batches)]
        model.zero_grad()
        exact.zero_grad()
        step(compiled, x)
        step(exact, x.double())
        assert worst_gradient(model, exact) < 1e-4
        graphs = report(model).graphs
        states = {f"{graph.kind} {part.name}": part.state for graph in graphs for part in graph.parts}
        if not changes or states != changes[-1]:
            changes.append(states)
        steps += 1
        time.sleep(0.02)
    assert set(changes[-1].values()) == {"running"}
    for states in changes[:-1]:
        assert "running" not in [state for name, state in states.items() if name.startswith("forward")], states
    assert {part.ours + part.theirs for graph in report(model).graphs for part in graph.parts} == {steps}


def test_neither_records_nor_cache_are_needed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = tmp_path / "records.db"
    records.mkdir()  # no file
    Path(f"{records}.executables").write_text("no directory", encoding="utf-8")
    parts = train(make_perceptron(), mode="now", budget="1s", records=str(records))
    assert {part.state for part in parts} == {"running"}
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2
    assert said[0].startswith("measurements are not kept")
    assert said[1].startswith("not all executables are kept for the next run")


def forget_proofs(records: Path) -> None:
    """Let executables beside records be those of a training that ended before they were proven."""
    for path in Path(f"{records}.executables").glob("*.proven"):
        path.unlink()


def test_what_an_earlier_run_has_proven_is_not_proven_again(kept: Path) -> None:
    model = make_perceptron()
    (first, *_) = train(model, steps=1, mode="cached", records=str(kept))
    assert (first.ours, first.theirs) == (1, 0)
    assert first.proof.earlier
    assert 0.0 <= first.proof.worst < 1e-4


@pytest.mark.parametrize("kind", ["another", "damaged", "missing"])
def test_a_proof_of_another_executable_proves_nothing(kind: str, kept: Path) -> None:
    paths = sorted(Path(f"{kept}.executables").glob("*.proven"))
    assert paths
    for path in paths:
        if kind == "another":
            path.write_text(json.dumps(json.loads(path.read_text()) | {"executable": "0"}), encoding="utf-8")
        elif kind == "damaged":
            path.write_text("[", encoding="utf-8")
        else:
            path.unlink()
    (first, *_) = train(make_perceptron(), steps=1, mode="cached", records=str(kept))
    assert (first.ours, first.theirs) == (1, 1)
    assert first.proof.in_step
    assert sorted(Path(f"{kept}.executables").glob("*.proven")) == paths  # it was proven in the step


def test_a_step_with_infinite_results_proves_nothing(kept: Path) -> None:
    forget_proofs(kept)
    model = make_perceptron()
    compiled = optimize(model, mode="cached", records=str(kept))
    for value, states in ((float("nan"), {"ready"}), (float("inf"), {"ready"}), (1.0, {"running"})):
        x = torch.randn(4, 16)
        x[0, 0] *= value
        step(compiled, x)
        assert {part.state for graph in report(model).graphs for part in graph.parts} == states


def test_progress_says_how_the_steps_have_changed(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr("tilewright.training.progress._EVERY", 0.0)
    used = worker.find_worker(Options(mode="now", budget="1s"), torch.get_num_threads())  # by other tests, too
    monkeypatch.setattr(used, "progress", Progress(used))
    with caplog.at_level(logging.INFO, "tilewright.training"):
        train(make_perceptron(), steps=4, mode="now", budget="1s")
    text = caplog.text
    assert "a step takes" in text
    assert "parts run in our kernels" in text


def test_reports_have_the_course_and_the_kernels_of_a_training(tmp_path: Path) -> None:
    model = make_perceptron()
    compiled = optimize(model, mode="now", budget="1s")
    for _ in range(6):
        step(compiled, torch.randn(4, 16))
    found = report(compiled, limits=True)
    for part in found.parts:
        assert part.our_seconds > 0.0
        assert part.their_seconds > 0.0
        assert part.proof is not None
        assert part.proof.right
        assert part.proof.worst < 1e-4
        assert part.kernels
        for kernel in part.kernels:
            assert kernel.seconds >= 0.0
            assert kernel.touched_bytes
            assert kernel.possible_seconds
            assert not kernel.name or kernel.task
    forward = found.graphs[0]
    assert sum(each.steps for each in forward.course) == 4  # the first one is traced, and the last one has not ended
    assert {(each.part, each.state) for each in forward.changes} <= {
        (part.name, state) for part in found.parts for state in ("running", "slower")
    }
    assert (found.model, found.options["mode"]) == (type(model).__name__, "now")
    found.write_json(tmp_path / "train.json")
    assert read_training(tmp_path / "train.json") == found
