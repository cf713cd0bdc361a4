"""An ensemble's mean ranks; its spread says where it knows little."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toys import TableSpace
from tilewright.cost.ensemble import Ensemble
from tilewright.cost.ranking import pairwise_accuracy
from tilewright.cost.xgb import XGBoostModel
from tilewright.errors import TilewrightError
from tilewright.space.configs import sample

SPACE = TableSpace()


def made(count: int = 4) -> Ensemble:
    return Ensemble(lambda seed: XGBoostModel("regression", seed=seed), count)


def test_it_is_surest_of_what_it_was_told() -> None:
    told, other = (sample(SPACE, np.random.default_rng(seed), 150) for seed in (0, 1))
    model = made()
    model.fit([SPACE.loop_nest(told)], [SPACE.seconds(told)])
    assert pairwise_accuracy(model.predict(SPACE.loop_nest(other)), SPACE.seconds(other)) > 0.8
    assert model.spread(SPACE.loop_nest(told)).mean() < model.spread(SPACE.loop_nest(other)).mean()


def test_it_is_kept_and_taken_up_again() -> None:
    configs = sample(SPACE, np.random.default_rng(0), 60)
    model, again = made(), made()
    assert not model.ready
    assert model.spread(SPACE.loop_nest(configs)).tolist() == [0.0] * 60
    model.fit([SPACE.loop_nest(configs)], [SPACE.seconds(configs)])
    again.restore(model.state())
    assert (again.predict(SPACE.loop_nest(configs)) == model.predict(SPACE.loop_nest(configs))).all()


def test_one_model_cannot_disagree() -> None:
    with pytest.raises(TilewrightError, match="two models or more"):
        made(1)
