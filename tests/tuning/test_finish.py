"""What is written in the end: the faster of two executables, whichever was tuned, and always a right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.network.models import TARGET, conv_model, defaults
from tilewright.measure.peers import Peer
from tilewright.measure.runner import NoRunner
from tilewright.network.build import build, replace_kernels
from tilewright.network.executable import load_executable
from tilewright.network.kernels_check import KernelCheck
from tilewright.network.load import load
from tilewright.network.tasks import Extraction, extract
from tilewright.records.memory import MemoryStore
from tilewright.tuning import finish
from tilewright.tuning.budget import Budget
from tilewright.tuning.finish import Choice, Incumbent, checked, chosen, never_slower, race_seconds
from tilewright.tuning.scheduler import NetworkTuner


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(load(conv_model(tmp_path_factory.mktemp("model") / "m.onnx")), TARGET)


@pytest.fixture
def out(extraction: Extraction, tmp_path: Path) -> Path:
    build(extraction, {}, tmp_path / "out", {})
    return tmp_path / "out"


@pytest.fixture
def incumbent(extraction: Extraction, tmp_path: Path) -> Incumbent:
    found = Incumbent.compiled(extraction, Choice(defaults(extraction)), tmp_path / "out.race")
    assert found is not None
    return found


def raced(monkeypatch: pytest.MonkeyPatch, ours: float, theirs: float, error: str = "") -> None:
    def race(entrants: Any, *_: Any) -> list[Peer]:
        times = zip(entrants, (ours, theirs), strict=True)
        first, second = (Peer(entrant.name, {block: [t] * 3 for block in range(5)}) for entrant, t in times)
        second.error = error
        return [first, second]

    monkeypatch.setattr(finish, "race", race)


def outputs(out: Path) -> Any:
    x = np.random.default_rng(0).standard_normal((1, 8, 10, 10), dtype=np.float32)
    return load_executable(out)(x)[0]


def test_the_faster_one_stays(
    extraction: Extraction, out: Path, incumbent: Incumbent, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (out / "kernels.so").read_bytes()
    right = outputs(out)
    raced(monkeypatch, 1.0, 2.0)
    verdict = never_slower(load_executable(out), extraction, out, incumbent)
    assert verdict is not None
    assert verdict.kept
    assert verdict.report["kept"] == "tuned"
    assert verdict.report["ratio"] == pytest.approx(0.5)
    assert (out / "kernels.so").read_bytes() == before

    raced(monkeypatch, 2.0, 1.0)
    verdict = never_slower(load_executable(out), extraction, out, incumbent)
    assert verdict is not None
    assert not verdict.kept
    assert verdict.report["kept"] == "incumbent"
    assert (out / "kernels.so").read_bytes() == incumbent.library.read_bytes() != before
    np.testing.assert_allclose(outputs(out), right, rtol=1e-4, atol=1e-5)


def test_a_wrong_incumbent_never_wins(
    extraction: Extraction, out: Path, incumbent: Incumbent, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced(monkeypatch, 2.0, 1.0)
    monkeypatch.setattr(finish, "network_error", lambda *_: 0.5)
    before = (out / "kernels.so").read_bytes()
    verdict = never_slower(load_executable(out), extraction, out, incumbent)
    assert verdict is not None
    assert verdict.kept
    assert (out / "kernels.so").read_bytes() == before


def test_without_a_race_the_tuned_one_stays(
    extraction: Extraction, out: Path, incumbent: Incumbent, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced(monkeypatch, 2.0, 1.0, error="it died")
    assert never_slower(load_executable(out), extraction, out, incumbent) is None


def test_executables_race_in_processes_of_their_own(extraction: Extraction, out: Path, incumbent: Incumbent) -> None:
    verdict = never_slower(load_executable(out), extraction, out, incumbent)
    assert verdict is not None
    assert verdict.report["tuned_ms"] > 0
    assert verdict.report["incumbent_ms"] > 0
    assert verdict.kept == (verdict.report["ratio"] <= 1)


def test_kernels_are_replaced_in_another_directory(
    extraction: Extraction, out: Path, incumbent: Incumbent, tmp_path: Path
) -> None:
    right = outputs(out)
    replace_kernels(out, incumbent.library, tmp_path / "other")
    np.testing.assert_allclose(outputs(tmp_path / "other"), right, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "other" / "kernels.so").read_bytes() != (out / "kernels.so").read_bytes()


def test_what_is_chosen_without_records_is_the_default(extraction: Extraction) -> None:
    budget = Budget(trials=1).start()
    tuner = NetworkTuner(extraction.uses, TARGET, NoRunner(), MemoryStore(), budget, np.random.default_rng(0))
    tuner.prepare()
    choice = chosen(extraction, tuner)
    assert set(choice.configs.values()) == {None}
    assert choice.defaults == [use.task.name for use in extraction.uses]
    assert set(choice.functions) == {use.task.key for use in extraction.uses}


def test_slow_networks_take_longer_to_race() -> None:
    assert race_seconds(0.0) < race_seconds(0.1) < race_seconds(1.0)


def test_a_winner_that_is_wrong_on_some_data_is_replaced(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = next(use for use in extraction.uses if use.task.kind == "contraction")
    key, functions = use.task.key, defaults(extraction)
    winner = functions[key].with_attr("winner", 1)
    monkeypatch.setattr(finish, "check_kernels", lambda *_: KernelCheck({key: "on zeros: all of it"}, (), 0.1))
    replaced, found = checked(extraction, Choice({**functions, key: winner}, {key: (0,)}), 60.0)
    assert found.wrong == {key: "on zeros: all of it"}
    assert "winner" not in (replaced.functions[key].attrs or {})
    assert replaced.configs[key] is None
    assert replaced.defaults == [use.task.name]
