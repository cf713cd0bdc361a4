"""What is published in the end: the faster of two executables, whichever was tuned, and never a wrong one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.models import TARGET, conv_model, defaults, design_space, read, runs, save
from tilewright.compiling.build import build, publish, replace_kernels
from tilewright.errors import CheckError, OutputError
from tilewright.executable.executable import load_executable
from tilewright.graph.tasks import Extraction, extract
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.peers import Peer
from tilewright.measure.runner import NoRunner
from tilewright.ops.registry import make_space
from tilewright.records.memory import MemoryStore
from tilewright.space.configs import sample
from tilewright.tuning import final_race, finish
from tilewright.tuning.budget import Budget
from tilewright.tuning.context import TuningContext
from tilewright.tuning.final_race import compare_executables, goes_on, race_seconds
from tilewright.tuning.finish import Finishing, FinishTimes
from tilewright.tuning.in_place import ContestResult
from tilewright.tuning.report import ContestReport
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.selection import Selection
from tilewright.tuning.workshop import JudgedExecutable, Workshop
from tilewright.verify.checker import Checker
from tilewright.verify.kernels_check import KernelCheck

CONTEST = ContestReport(tasks=1, variants=2, seconds=1.0, rounds=5, exchanged=(), before_ms=2.0, after_ms=1.0)
TIMES = FinishTimes(checking=5.0, placing=5.0)

pytestmark = runs


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(read(conv_model(tmp_path_factory.mktemp("model") / "m.onnx")), TARGET)


@pytest.fixture(scope="module")
def checker(extraction: Extraction) -> Iterator[Checker]:
    with Checker(extraction.network, 8.0) as made:
        yield made


@pytest.fixture(scope="module")
def workshop(extraction: Extraction, checker: Checker, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One for all tests, as a tuning has one: it compiles each kernel once."""
    return Workshop(extraction, checker, tmp_path_factory.mktemp("aside"), "first")


@pytest.fixture(scope="module")
def incumbent(extraction: Extraction, workshop: Workshop) -> JudgedExecutable:
    return workshop.build(Selection(defaults(extraction), dict.fromkeys(use.task.key for use in extraction.uses)))


def raced(monkeypatch: pytest.MonkeyPatch, ours: float, theirs: float, error: str = "") -> None:
    """Let every race take these seconds."""

    def race(entrants: Any, *_: Any, **__: Any) -> list[Peer]:
        times = zip(entrants, (ours, theirs), strict=True)
        first, second = (Peer(entrant.name, {block: [t] * 3 for block in range(5)}) for entrant, t in times)
        second.error = error
        return [first, second]

    monkeypatch.setattr(final_race, "race", race)


def inputs() -> Any:
    return np.random.default_rng(0).standard_normal((1, 8, 10, 10), dtype=np.float32)


def outputs(out: Path) -> Any:
    return load_executable(out)(inputs())[0]


def ones(task: Any) -> Any:
    """A function of the task's signature that gives ones whatever it is given."""
    from tvm import te, tirx

    from tilewright.space.module import task_module

    *inputs, output = [
        te.placeholder(tuple(int(d) for d in p.ty.shape), str(p.ty.dtype), f"p{i}")
        for i, p in enumerate(task_module(task)["main"].params)
    ]
    result = te.compute(output.shape, lambda *_: tirx.const(1.0, output.dtype), name="ones")
    return te.create_prim_func([*inputs, result])


def convolution(extraction: Extraction) -> Any:
    return next(use.task for use in extraction.uses if use.task.kind == "contraction")


def other_choice(extraction: Extraction) -> Selection:
    """A convolution with another schedule than its default."""
    task = convolution(extraction)
    space = make_space(task, TARGET)
    config = next(c for c in sample(space, np.random.default_rng(0), 20) if tuple(c) != tuple(space.default()))
    functions = defaults(extraction) | {task.key: space.schedule(config).mod["main"]}
    configs = dict.fromkeys(use.task.key for use in extraction.uses) | {task.key: tuple(config.tolist())}
    return Selection(functions, configs)


def tuner_of(extraction: Extraction, selection: Selection | None = None) -> NetworkTuner:
    """A tuner that knows the selection as the best from its records."""
    store = MemoryStore()
    for use in extraction.uses:
        config = None if selection is None else selection.configs[use.task.key]
        if config is not None:
            template = design_space(use.task, TARGET).template
            store.add([Measurement(use.task.key, TARGET.key, template, config, Outcome.OK, (1e-6,) * 3)])
    context = TuningContext(TARGET, NoRunner(), store, Budget(trials=1).start(), np.random.default_rng(0))
    tuner = NetworkTuner(extraction.uses, context)
    tuner.prepare()
    return tuner


def test_a_candidate_is_judged(incumbent: JudgedExecutable) -> None:
    assert incumbent.verdict.right
    assert incumbent.verdict.error is not None
    assert incumbent.verdict.error < 1e-5
    assert incumbent.replaced == ()
    assert incumbent.seconds > 0


def test_a_task_that_spoils_the_outputs_is_blamed_and_replaced(extraction: Extraction, workshop: Workshop) -> None:
    task, functions = convolution(extraction), defaults(extraction)
    functions[task.key] = ones(task)
    found = workshop.build(Selection(functions, {task.key: (1, 2, 3)}))
    assert found.replaced == (task.key,)
    assert found.verdict.right
    assert found.selection.configs[task.key] is None
    np.testing.assert_allclose(outputs(found.folder), outputs(workshop.build(Selection()).folder), rtol=1e-4, atol=1e-5)


def test_a_default_that_is_wrong_gives_way_to_tvms_program(extraction: Extraction, workshop: Workshop) -> None:
    task, functions = convolution(extraction), defaults(extraction)
    functions[task.key] = ones(task)
    found = workshop.build(Selection(functions, {task.key: None}))
    assert found.replaced == (task.key,)
    assert task.key not in found.selection.functions


def test_wrong_outputs_without_a_culprit_are_an_error(extraction: Extraction, checker: Checker, tmp_path: Path) -> None:
    network = extraction.network
    weights = {name: -array for name, array in network.weights.items()}
    wrong = dataclasses.replace(extraction, network=dataclasses.replace(network, weights=weights))
    with pytest.raises(CheckError, match=r"outputs are wrong: .*report it") as caught:
        Workshop(wrong, checker, tmp_path, "wrong").build(Selection(defaults(extraction)))
    assert caught.value.report["verdict"]["outcome"] == "wrong"


def test_kernels_are_exchanged_only_for_right_ones(
    extraction: Extraction, workshop: Workshop, incumbent: JudgedExecutable
) -> None:
    task = convolution(extraction)
    assert workshop.exchange(incumbent, Selection(defaults(extraction) | {task.key: ones(task)})) is None
    found = workshop.exchange(incumbent, other_choice(extraction))
    assert found is not None
    assert found.verdict.right
    assert (found.folder / "kernels.so").read_bytes() != (incumbent.folder / "kernels.so").read_bytes()
    np.testing.assert_allclose(outputs(found.folder), outputs(incumbent.folder), rtol=1e-4, atol=1e-5)


def test_the_faster_one_is_kept(
    extraction: Extraction, workshop: Workshop, incumbent: JudgedExecutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "contest", lambda *_: None)
    selection = other_choice(extraction)
    for ours, theirs, kept in ((1.0, 2.0, "tuned"), (2.0, 1.0, "incumbent")):
        raced(monkeypatch, ours, theirs)
        finishing = Finishing(workshop, incumbent)
        finishing.run(tuner_of(extraction, selection), TIMES)
        assert finishing.race is not None
        assert finishing.race.kept == kept
        assert finishing.race.ratio == pytest.approx(ours / theirs)
        assert (finishing.best is incumbent) == (kept == "incumbent")
        assert finishing.best.verdict.right
    raced(monkeypatch, 2.0, 1.0, error="it died")
    finishing = Finishing(workshop, incumbent)
    finishing.run(tuner_of(extraction, selection), TIMES)
    assert finishing.race is None
    assert finishing.best.selection.configs == selection.configs


def test_an_incumbent_whose_kernels_are_wrong_on_other_data_never_wins(
    extraction: Extraction, workshop: Workshop, incumbent: JudgedExecutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "contest", lambda *_: None)
    raced(monkeypatch, 2.0, 1.0)
    selection = other_choice(extraction)

    def check_selection(_: Any, asked: Selection, seconds: float) -> Any:
        wrong = {"key": "on zeros: all of it"} if asked is incumbent.selection else {}
        return asked, KernelCheck(wrong, (), 0.1)

    monkeypatch.setattr(finish, "check_selection", check_selection)
    finishing = Finishing(workshop, incumbent)
    finishing.run(tuner_of(extraction, selection), TIMES)
    assert finishing.best is not incumbent


def test_nothing_new_is_built_where_tuning_brought_nothing(
    extraction: Extraction, workshop: Workshop, incumbent: JudgedExecutable
) -> None:
    finishing = Finishing(workshop, incumbent)
    finishing.run(tuner_of(extraction), TIMES)
    assert finishing.best is incumbent
    assert finishing.race is None


def test_executables_race_in_processes_of_their_own(incumbent: JudgedExecutable, workshop: Workshop) -> None:
    other = workshop.exchange(incumbent, other_choice(incumbent.extraction.parts[0]))
    assert other is not None
    result = compare_executables(other.folder, incumbent.folder, TARGET.cores)
    assert result is not None
    assert result.tuned_ms > 0
    assert result.incumbent_ms > 0
    assert result.ratio_low <= result.ratio <= result.ratio_high
    assert (result.kept == "tuned") == (result.ratio <= 1)
    assert compare_executables(other.folder, incumbent.folder / "nowhere", TARGET.cores) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "until", "blocks"),
    [(0.1, 0.1, math.inf, 40), (0.1, 0.2, math.inf, 10), (0.1, 0.1, -math.inf, 3), (9.0, 9.0, math.inf, 3)],
    ids=["equal", "decided", "no time", "slow"],
)
def test_a_race_goes_on_while_it_is_not_decided_and_there_is_time(
    ours: float, theirs: float, until: float, blocks: int
) -> None:
    peers = [Peer("ours"), Peer("theirs")]
    rng = np.random.default_rng(0)
    while len(peers[0].blocks) < 3 or goes_on(until, peers):
        for peer, seconds in zip(peers, (ours, theirs), strict=True):
            peer.blocks[len(peer.blocks)] = (seconds * rng.uniform(0.9, 1.1, 8)).tolist()
    assert len(peers[0].blocks) == blocks
    peers[1].error = "it died"
    assert not goes_on(math.inf, peers)


def test_slow_networks_take_longer_to_race() -> None:
    assert race_seconds(1e-6) < race_seconds(0.1) < race_seconds(0.9) < race_seconds(10.0)
    least, full = race_seconds(10.0)
    assert least == pytest.approx(63, abs=1)  # three turns of two, of a run each
    assert full == pytest.approx(203, abs=1)


def test_kernels_are_replaced_in_another_directory(
    workshop: Workshop, incumbent: JudgedExecutable, tmp_path: Path
) -> None:
    library = workshop.kernels.library(other_choice(incumbent.extraction.parts[0]).functions, tmp_path / "other.so")
    replace_kernels(incumbent.folder, library, tmp_path / "other")
    np.testing.assert_allclose(outputs(tmp_path / "other"), outputs(incumbent.folder), rtol=1e-4, atol=1e-5)


def test_publishing_replaces_an_executable_and_nothing_else(
    extraction: Extraction, incumbent: JudgedExecutable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(extraction, {}, out, {})
    publish(incumbent.folder, out, {"verdict": incumbent.verdict.report()})
    loaded = load_executable(out)
    assert loaded.manifest["verdict"]["outcome"] == "right"
    np.testing.assert_array_equal(loaded(inputs())[0], outputs(incumbent.folder))
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="holds other files"):
        publish(incumbent.folder, full, {})
    assert [file.name for file in full.iterdir()] == ["letter.txt"]


def test_the_winners_of_the_contest_are_built(
    extraction: Extraction, workshop: Workshop, incumbent: JudgedExecutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_choice(extraction)
    contest = ContestResult(Selection(defaults(extraction), incumbent.selection.configs), CONTEST)
    monkeypatch.setattr(finish, "contest", lambda *_: contest)
    raced(monkeypatch, 1.0, 2.0)
    finishing = Finishing(workshop, incumbent)
    finishing.run(tuner_of(extraction, other), TIMES)
    assert finishing.contest is contest
    assert finishing.best.selection.configs == incumbent.selection.configs
    wanted = set(workshop.kernels.symbols(defaults(extraction)).values())
    plan = load_executable(finishing.best.folder).manifest["plan"]
    assert plan is not None
    assert wanted <= {kernel for kernel, _ in plan["calls"]}


def test_winners_that_are_wrong_leave_what_there_was(
    extraction: Extraction, workshop: Workshop, incumbent: JudgedExecutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, other = convolution(extraction), other_choice(extraction)
    wrong = Selection(other.functions | {task.key: ones(task)}, other.configs | {task.key: (9, 9)})
    monkeypatch.setattr(finish, "contest", lambda *_: ContestResult(wrong, CONTEST))
    raced(monkeypatch, 1.0, 2.0)
    finishing = Finishing(workshop, incumbent)
    finishing.run(tuner_of(extraction, other), FinishTimes(checking=0.0, placing=5.0))  # no time to find it alone
    assert finishing.contest is None
    assert finishing.best.selection.configs == other.configs
    assert finishing.best.verdict.right


def test_an_interrupt_leaves_the_best_that_there_is(
    extraction: Extraction, workshop: Workshop, incumbent: JudgedExecutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    other = other_choice(extraction)
    monkeypatch.setattr(finish, "contest", interrupt)
    finishing = Finishing(workshop, incumbent)
    with pytest.raises(KeyboardInterrupt):
        finishing.run(tuner_of(extraction, other), TIMES)
    assert finishing.best.selection.configs == other.configs
    monkeypatch.setattr(workshop, "build", interrupt)
    finishing = Finishing(workshop, incumbent)
    with pytest.raises(KeyboardInterrupt):
        finishing.run(tuner_of(extraction, other), TIMES)
    assert finishing.best is incumbent


def test_an_interrupt_while_a_wrong_kernel_is_exchanged_leaves_the_incumbent(
    extraction: Extraction, workshop: Workshop, incumbent: JudgedExecutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    other = other_choice(extraction)
    found = Selection(defaults(extraction), incumbent.selection.configs)
    check = KernelCheck(dict.fromkeys(other.tuned, "on zeros: all of it"), (), 0.1)
    monkeypatch.setattr(finish, "contest", lambda *_: None)
    monkeypatch.setattr(finish, "check_selection", lambda *_: (found, check))
    monkeypatch.setattr(workshop, "exchange", interrupt)
    finishing = Finishing(workshop, incumbent)
    with pytest.raises(KeyboardInterrupt):
        finishing.run(tuner_of(extraction, other), TIMES)
    assert finishing.best is incumbent


def test_a_short_finish_neither_compares_nor_races(
    extraction: Extraction, workshop: Workshop, incumbent: JudgedExecutable
) -> None:
    other = other_choice(extraction)
    finishing = Finishing(workshop, incumbent)
    finishing.run(tuner_of(extraction, other), TIMES, short=True)
    assert finishing.best.selection.configs == other.configs
    assert finishing.best.verdict.right
    assert (finishing.contest, finishing.race) == (None, None)


def test_a_network_without_tasks(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    path = save(tmp_path / "m.onnx", [node], {"x": [1, 4, 6]}, [2, 12], shape=np.asarray([2, 12]))
    nothing = extract(read(path), TARGET)
    assert nothing.uses == ()
    with Checker(nothing.network, 8.0) as checker:
        workshop = Workshop(nothing, checker, tmp_path, "first")
        finishing = Finishing(workshop, workshop.build(Selection()))
        finishing.run(tuner_of(nothing), TIMES)
    assert finishing.best.verdict.right
    x = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    np.testing.assert_array_equal(load_executable(finishing.best.folder)(x)[0], x.reshape(2, 12))
