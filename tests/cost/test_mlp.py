from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cost.test_xgb import table
from tests.toys import TableSpace
from tilewright.cost.mlp import MLPModel
from tilewright.cost.model import KnobTable
from tilewright.cost.models import load_model, save_model
from tilewright.cost.neural import Training
from tilewright.cost.xgb import relative_throughput
from tilewright.errors import TilewrightError
from tilewright.space.configs import sample

pytest.importorskip("torch")


def test_losses_and_parameters_make_a_difference() -> None:
    seen, seconds = table(150)
    brief = Training(epochs=5, least_steps=0)
    models: list[dict[str, Any]] = [{}, {"loss": "regression"}, {"hidden": (16,)}, {"seed": 1}]
    trainings = [replace(brief, rate=1e-4), replace(brief, epochs=3), replace(brief, least_steps=100)]
    predictions = []
    for parameters in [*models, *({"training": training} for training in trainings)]:
        model = MLPModel(**{"training": brief, **parameters})
        model.fit([seen], [seconds])
        predictions.append(tuple(model.predict(seen).tolist()))
    assert len(set(predictions)) == len(predictions)


def test_regression_predicts_relative_throughput() -> None:
    seen, seconds = table(300)
    model = MLPModel("regression", training=Training(epochs=60))
    model.fit([seen], [seconds])
    assert np.abs(model.predict(seen) - relative_throughput(seconds)).mean() < 0.05


def test_no_trace_in_the_generator_and_threads_of_pytorch() -> None:
    import torch

    threads, before = torch.get_num_threads(), torch.get_rng_state()
    seen, seconds = table(50)
    model = MLPModel(training=Training(epochs=2, least_steps=0), threads=threads + 1)
    model.fit([seen], [seconds])
    model.predict(seen)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before)


def test_a_warm_fit_goes_on_from_the_weights_there_are() -> None:
    space = TableSpace()
    configs = sample(space, np.random.default_rng(0), 600)
    nest, seconds = space.loop_nest(configs), space.seconds(configs)
    cold = MLPModel(training=Training(epochs=30))
    cold.fit([nest], [seconds])
    cold_scores = cold.predict(nest)

    warm = MLPModel.from_state(cold.state(), warm=True, training=Training(warm_epochs=1, rate=1e-4))
    warm.fit([nest], [np.full(600, np.nan)])  # nothing to learn: stays as it was
    assert (warm.predict(nest) == cold_scores).all()
    warm.fit([nest], [seconds])
    assert warm.predict(nest) != pytest.approx(cold_scores, abs=1e-6)
    assert np.corrcoef(warm.predict(nest), cold_scores)[0, 1] > 0.99
    with pytest.raises(TilewrightError, match="one width"):
        warm.fit([KnobTable(np.asarray([[1.0], [2.0]], dtype=np.float32))], [np.asarray([1.0, 2.0])])


def test_equal_latencies_and_single_programs_leave_the_model_unready() -> None:
    seen, _ = table(3)
    model = MLPModel()
    model.fit([seen], [np.full(3, 0.5)])
    assert not model.ready
    model.fit([KnobTable(seen.values[:1])], [np.asarray([0.5])])
    assert not model.ready
    assert model.predict(seen).tolist() == [0, 0, 0]


def test_columns_that_were_constant_do_not_count() -> None:
    seen, seconds = table(60)
    seen.values[:, 5] = 3.0
    model = MLPModel(training=Training(epochs=2, least_steps=0))
    model.fit([seen], [seconds])
    before = model.predict(seen)
    seen.values[:, 5] = 1e9
    assert (model.predict(seen) == before).all()


def test_stored_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    seen, seconds = table(60)
    model = MLPModel("regression", hidden=(8, 4), training=Training(epochs=2))
    with pytest.raises(TilewrightError, match="stored after it was fitted"):
        model.state()
    model.fit([seen], [seconds])
    save_model("mlp", model, "toy/1", {}, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz").model
    assert isinstance(loaded, MLPModel)
    assert loaded.ready
    assert loaded.loss == "regression"
    assert (loaded.predict(seen) == model.predict(seen)).all()


def test_weights_of_another_model_or_version_are_refused() -> None:
    seen, seconds = table(60)
    model = MLPModel(training=Training(epochs=1, least_steps=0))
    model.fit([seen], [seconds])
    with pytest.raises(TilewrightError, match=r"of the model 'mlp', version 0, but this is 'mlp', version \d"):
        MLPModel.from_state({**model.state(), "version": np.asarray(0)})
    with pytest.raises(TilewrightError, match="of the model 'gcn'"):
        MLPModel.from_state({**model.state(), "model": np.asarray("gcn")})
    with pytest.raises(TilewrightError, match="of the model '\\?'"):
        MLPModel.from_state({})


def test_mistakes_are_refused() -> None:
    seen, seconds = table(10)
    with pytest.raises(TilewrightError, match="one of rank, regression, but this is 'hinge'"):
        MLPModel("hinge")  # type: ignore[arg-type]
    with pytest.raises(TilewrightError, match="use a model per template"):
        MLPModel().fit([seen, KnobTable(seen.values[:, :3])], [seconds, seconds])
    with pytest.raises(TilewrightError, match="each with its latency"):
        MLPModel().fit([seen], [seconds[:9]])
