"""What is written in the end: the faster of two executables, whichever was tuned, and always a right one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.network.models import TARGET, conv_model, defaults, runs, save
from tilewright.measure.peers import Peer
from tilewright.measure.runner import NoRunner
from tilewright.network.build import build, replace_kernels
from tilewright.network.executable import load_executable
from tilewright.network.kernels import Kernels
from tilewright.network.kernels_check import KernelCheck
from tilewright.network.load import load
from tilewright.network.tasks import Extraction, extract
from tilewright.records.memory import MemoryStore
from tilewright.space.configs import sample
from tilewright.space.registry import make_space
from tilewright.tuning import finish
from tilewright.tuning.budget import Budget
from tilewright.tuning.choice import Choice
from tilewright.tuning.finish import Finished, Incumbent, Verdict, exchanged, finished, never_slower, race_seconds
from tilewright.tuning.in_place import Contest
from tilewright.tuning.scheduler import NetworkTuner

pytestmark = runs


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(load(conv_model(tmp_path_factory.mktemp("model") / "m.onnx")), TARGET)


@pytest.fixture
def out(extraction: Extraction, tmp_path: Path) -> Path:
    build(extraction, {}, tmp_path / "out", {})
    return tmp_path / "out"


@pytest.fixture
def incumbent(extraction: Extraction, tmp_path: Path) -> Incumbent:
    found = Incumbent.compiled(
        Kernels(extraction, tmp_path / "kernels"), Choice(defaults(extraction)), tmp_path / "out.race"
    )
    assert found is not None
    return found


def raced(monkeypatch: pytest.MonkeyPatch, ours: float, theirs: float, error: str = "") -> None:
    def race(entrants: Any, *_: Any, **__: Any) -> list[Peer]:
        times = zip(entrants, (ours, theirs), strict=True)
        first, second = (Peer(entrant.name, {block: [t] * 3 for block in range(5)}) for entrant, t in times)
        second.error = error
        return [first, second]

    monkeypatch.setattr(finish, "race", race)


def inputs() -> Any:
    return np.random.default_rng(0).standard_normal((1, 8, 10, 10), dtype=np.float32)


def outputs(out: Path) -> Any:
    return load_executable(out)(inputs())[0]


def test_the_faster_one_stays(
    extraction: Extraction, out: Path, incumbent: Incumbent, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (out / "kernels.so").read_bytes()
    right = outputs(out)
    raced(monkeypatch, 1.0, 2.0)
    verdict = never_slower(extraction, out, incumbent)
    assert verdict is not None
    assert verdict.kept
    assert verdict.report["kept"] == "tuned"
    assert verdict.report["ratio"] == pytest.approx(0.5)
    assert (out / "kernels.so").read_bytes() == before

    raced(monkeypatch, 2.0, 1.0)
    verdict = never_slower(extraction, out, incumbent)
    assert verdict is not None
    assert not verdict.kept
    assert verdict.report["kept"] == "incumbent"
    assert (out / "kernels.so").read_bytes() == incumbent.library.path.read_bytes() != before
    np.testing.assert_allclose(outputs(out), right, rtol=1e-4, atol=1e-5)


def test_a_wrong_incumbent_never_wins(
    extraction: Extraction, out: Path, incumbent: Incumbent, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced(monkeypatch, 2.0, 1.0)
    monkeypatch.setattr(finish, "network_error", lambda *_: 0.5)
    before = (out / "kernels.so").read_bytes()
    verdict = never_slower(extraction, out, incumbent)
    assert verdict is not None
    assert verdict.kept
    assert (out / "kernels.so").read_bytes() == before


def test_an_incumbent_whose_kernels_are_wrong_on_other_data_never_wins(
    extraction: Extraction, out: Path, incumbent: Incumbent, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced(monkeypatch, 2.0, 1.0)
    check = KernelCheck({"key": "on zeros: all of it"}, (), 0.1)
    monkeypatch.setattr(finish, "checked", lambda *_: (incumbent.choice, check))
    verdict = never_slower(extraction, out, incumbent, checking=1.0)
    assert verdict is not None
    assert verdict.kept


def test_without_a_race_the_tuned_one_stays(
    extraction: Extraction, out: Path, incumbent: Incumbent, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced(monkeypatch, 2.0, 1.0, error="it died")
    assert never_slower(extraction, out, incumbent) is None


def test_executables_race_in_processes_of_their_own(extraction: Extraction, out: Path, incumbent: Incumbent) -> None:
    verdict = never_slower(extraction, out, incumbent)
    assert verdict is not None
    assert verdict.report["tuned_ms"] > 0
    assert verdict.report["incumbent_ms"] > 0
    assert verdict.kept == (verdict.report["ratio"] <= 1)


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
    while len(peers[0].blocks) < 3 or finish._undecided(until, peers):
        for peer, seconds in zip(peers, (ours, theirs), strict=True):
            peer.blocks[len(peer.blocks)] = (seconds * rng.uniform(0.9, 1.1, 8)).tolist()
    assert len(peers[0].blocks) == blocks
    peers[1].error = "it died"
    assert not finish._undecided(math.inf, peers)


def test_kernels_are_replaced_in_another_directory(
    extraction: Extraction, out: Path, incumbent: Incumbent, tmp_path: Path
) -> None:
    right = outputs(out)
    replace_kernels(out, incumbent.library, tmp_path / "other")
    np.testing.assert_allclose(outputs(tmp_path / "other"), right, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "other" / "kernels.so").read_bytes() != (out / "kernels.so").read_bytes()


def test_slow_networks_take_longer_to_race() -> None:
    assert race_seconds(1e-6) < race_seconds(0.1) < race_seconds(0.9) < race_seconds(10.0)
    least, full = race_seconds(10.0)
    assert least == pytest.approx(63, abs=1)  # three turns of two, of a run each
    assert full == pytest.approx(203, abs=1)


def test_other_kernels_are_taken_only_if_they_are_right(
    extraction: Extraction, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, choice = Kernels(extraction, tmp_path / "kernels"), Choice(defaults(extraction))
    before, right = (out / "kernels.so").read_bytes(), outputs(out)
    with monkeypatch.context() as patched:
        patched.setattr(finish, "network_error", lambda *_: 0.5)
        assert exchanged(extraction, kernels, choice, out, tmp_path) is None
    assert (out / "kernels.so").read_bytes() == before
    found = exchanged(extraction, kernels, choice, out, tmp_path)
    assert found is not None
    assert found[1] is not None
    assert found[1] <= 1e-3
    assert (out / "kernels.so").read_bytes() != before
    np.testing.assert_allclose(outputs(out), right, rtol=1e-4, atol=1e-5)


def finish_with(
    extraction: Extraction,
    incumbent: Incumbent,
    tmp_path: Path,
    contest: Contest | None,
    monkeypatch: pytest.MonkeyPatch,
    verdict: Verdict | None = None,
    interrupted: bool = False,
) -> Finished:
    monkeypatch.setattr(finish, "contest", lambda *_: contest)
    monkeypatch.setattr(finish, "never_slower", lambda *_: verdict)
    tuner = NetworkTuner(
        extraction.uses, TARGET, NoRunner(), MemoryStore(), Budget(trials=1).start(), np.random.default_rng(0)
    )
    tuner.prepare()
    tuner.interrupted = interrupted
    kernels = Kernels(extraction, tmp_path / "kernels")
    return finished(extraction, tuner, kernels, incumbent, tmp_path / "done", tmp_path, 5.0, 5.0)


def reshape_model(path: Path) -> Path:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    return save(path, [node], {"x": [1, 4, 6]}, [2, 12], shape=np.asarray([2, 12]))


def test_a_network_without_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = extract(load(reshape_model(tmp_path / "reshape.onnx")), TARGET)
    assert nothing.uses == ()
    first = Incumbent.compiled(Kernels(nothing, tmp_path / "k"), Choice(), tmp_path / "race")
    assert first is not None
    done = finish_with(nothing, first, tmp_path, None, monkeypatch)
    x = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    np.testing.assert_array_equal(done.executable(x)[0], x.reshape(2, 12))


def test_the_incumbent_that_won_is_what_is_reported(
    extraction: Extraction, incumbent: Incumbent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest = Contest(other_choice(extraction), {"tasks": 1})
    verdict = Verdict(False, {}, 0.25)
    done = finish_with(extraction, incumbent, tmp_path, contest, monkeypatch, verdict)
    assert done.choice is incumbent.choice
    assert done.error == 0.25
    assert done.verdict is verdict


def test_an_interrupt_while_finishing_leaves_what_was_written(
    extraction: Extraction, incumbent: Incumbent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finish, "checked", interrupt)
    done = finish_with(extraction, incumbent, tmp_path, None, monkeypatch)
    assert done.choice.tuned == ()
    assert done.contest is None
    assert done.error is not None
    np.testing.assert_array_equal(outputs(tmp_path / "done"), done.executable(inputs())[0])
    with pytest.raises(KeyboardInterrupt):
        finish_with(extraction, incumbent, tmp_path, None, monkeypatch, interrupted=True)


def test_an_interrupt_while_a_wrong_kernel_is_exchanged_leaves_no_executable(
    extraction: Extraction, incumbent: Incumbent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = other_choice(extraction)
    check = KernelCheck(dict.fromkeys(wrong.configs, "on zeros: all of it"), (), 0.1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finish, "chosen", lambda *_: wrong)
    monkeypatch.setattr(finish, "checked", lambda *_: (Choice(defaults(extraction)), check))
    monkeypatch.setattr(finish, "exchanged", interrupt)
    with pytest.raises(KeyboardInterrupt):
        finish_with(extraction, incumbent, tmp_path, None, monkeypatch)


def other_choice(extraction: Extraction) -> Choice:
    """A convolution with another schedule than its default."""
    use = next(use for use in extraction.uses if use.task.kind == "contraction")
    space = make_space(use.task, TARGET)
    config = next(c for c in sample(space, np.random.default_rng(0), 20) if tuple(c) != tuple(space.default()))
    functions = defaults(extraction) | {use.task.key: space.schedule(config).mod["main"]}
    return Choice(functions, {use.task.key: tuple(config.tolist())})


def test_the_winners_of_the_contest_are_written(
    extraction: Extraction, incumbent: Incumbent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_choice(extraction)
    done = finish_with(extraction, incumbent, tmp_path, Contest(other, {"tasks": 1}), monkeypatch)
    assert done.choice.configs == other.configs
    assert done.contest is not None
    assert done.error is not None
    assert done.error <= 1e-3
    wanted = set(Kernels(extraction, tmp_path).symbols(other.functions).values())
    plan = load_executable(tmp_path / "done").manifest["plan"]
    assert wanted <= {kernel for kernel, _ in plan["calls"]}


def test_winners_that_cannot_be_written_leave_what_there_was(
    extraction: Extraction, incumbent: Incumbent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "exchanged", lambda *_: None)
    contest = Contest(other_choice(extraction), {"tasks": 1})
    done = finish_with(extraction, incumbent, tmp_path, contest, monkeypatch)
    assert done.contest is None
    assert set(done.choice.configs.values()) == {None}
    wanted = set(Kernels(extraction, tmp_path).symbols(defaults(extraction)).values())
    plan = load_executable(tmp_path / "done").manifest["plan"]
    assert wanted <= {kernel for kernel, _ in plan["calls"]}
