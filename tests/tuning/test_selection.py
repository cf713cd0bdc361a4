"""What each task is to run with: the best that is known, as long as it is right."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models import TARGET, conv_model, defaults, design_space, read, runs
from tilewright.errors import SpaceError
from tilewright.graph.tasks import Extraction, extract
from tilewright.measure.runner import NoRunner
from tilewright.records.memory import MemoryStore
from tilewright.tuning.budget import Budget
from tilewright.tuning.context import TuningContext
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.selection import Selection, check_selection, select_best
from tilewright.verify.kernels_check import KernelCheck

pytestmark = runs


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(read(conv_model(tmp_path_factory.mktemp("model") / "m.onnx")), TARGET)


def test_what_is_chosen_without_records_is_the_default(extraction: Extraction) -> None:
    budget = Budget(trials=1).start()
    tuner = NetworkTuner(
        extraction.uses, TuningContext(TARGET, NoRunner(), MemoryStore(), budget, np.random.default_rng(0))
    )
    tuner.prepare()
    selection = select_best(extraction, tuner)
    assert set(selection.configs.values()) == {None}
    assert selection.tuned == ()
    assert set(selection.functions) == {use.task.key for use in extraction.uses}


def test_a_winner_that_is_wrong_on_some_data_is_replaced(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = next(use for use in extraction.uses if use.task.kind == "contraction")
    key, functions = use.task.key, defaults(extraction)
    winner = functions[key].with_attr("winner", 1)
    monkeypatch.setattr(
        "tilewright.tuning.selection.check_kernels", lambda *_: KernelCheck({key: "on zeros: all of it"}, (), 0.1)
    )
    replaced, found = check_selection(extraction, Selection({**functions, key: winner}, {key: (0,)}), 60.0)
    assert found.wrong == {key: "on zeros: all of it"}
    assert "winner" not in (replaced.functions[key].attrs or {})
    assert replaced.configs[key] is None
    assert replaced.tuned == ()


def test_a_default_that_was_the_best_is_no_other_config(extraction: Extraction) -> None:
    budget = Budget(trials=1).start()
    tuner = NetworkTuner(
        extraction.uses, TuningContext(TARGET, NoRunner(), MemoryStore(), budget, np.random.default_rng(0))
    )
    tuner.prepare()
    for known in tuner.tuners.values():
        known.best_config = known.space.default()
    assert select_best(extraction, tuner).tuned == ()


def test_a_winner_whose_default_cannot_be_made_is_unchecked(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = next(use for use in extraction.uses if use.task.kind == "contraction")
    space = design_space(use.task, TARGET)

    def refused(*_: object) -> None:
        raise SpaceError("there is no such program")

    monkeypatch.setattr(space, "schedule", refused)
    monkeypatch.setattr("tilewright.tuning.selection.make_space", lambda *_: space)
    selection = Selection(defaults(extraction), {use.task.key: (0,)})
    same, found = check_selection(extraction, selection, 60.0)
    assert same.tuned == (use.task.key,)
    assert found.unchecked == (use.task.key,)
