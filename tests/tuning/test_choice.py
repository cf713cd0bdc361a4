"""What each task is to run with: the best that is known, as long as it is right."""

from __future__ import annotations

import numpy as np
import pytest

from tests.network.models import TARGET, conv_model, defaults
from tilewright.measure.runner import NoRunner
from tilewright.network.kernels_check import KernelCheck
from tilewright.network.load import load
from tilewright.network.tasks import Extraction, extract
from tilewright.records.memory import MemoryStore
from tilewright.tuning.budget import Budget
from tilewright.tuning.choice import Choice, checked, chosen
from tilewright.tuning.scheduler import NetworkTuner


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(load(conv_model(tmp_path_factory.mktemp("model") / "m.onnx")), TARGET)


def test_what_is_chosen_without_records_is_the_default(extraction: Extraction) -> None:
    budget = Budget(trials=1).start()
    tuner = NetworkTuner(extraction.uses, TARGET, NoRunner(), MemoryStore(), budget, np.random.default_rng(0))
    tuner.prepare()
    choice = chosen(extraction, tuner)
    assert set(choice.configs.values()) == {None}
    assert choice.defaults == [use.task.name for use in extraction.uses]
    assert set(choice.functions) == {use.task.key for use in extraction.uses}


def test_a_winner_that_is_wrong_on_some_data_is_replaced(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = next(use for use in extraction.uses if use.task.kind == "contraction")
    key, functions = use.task.key, defaults(extraction)
    winner = functions[key].with_attr("winner", 1)
    monkeypatch.setattr(
        "tilewright.tuning.choice.check_kernels", lambda *_: KernelCheck({key: "on zeros: all of it"}, (), 0.1)
    )
    replaced, found = checked(extraction, Choice({**functions, key: winner}, {key: (0,)}), 60.0)
    assert found.wrong == {key: "on zeros: all of it"}
    assert "winner" not in (replaced.functions[key].attrs or {})
    assert replaced.configs[key] is None
    assert replaced.defaults == [use.task.name]
