"""Searchers and samplers by name: each pair makes what it says, and knows what it needs."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from tests.toys import TableSpace
from tilewright.cost.models import StoredModel
from tilewright.errors import MissingExtraError, TilewrightError
from tilewright.methods import parts
from tilewright.methods.default import default
from tilewright.methods.parts import SAMPLERS, SEARCHERS, combine
from tilewright.space.configs import sample

SPACE = TableSpace()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_every_pair_proposes_and_picks(searcher: str, sampler: str) -> None:
    needed = SEARCHERS[searcher].module
    if needed and find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    made = combine(searcher, sampler)
    rng = np.random.default_rng(0)
    choose = made.sampler(SPACE, rng, lambda configs: np.zeros(len(configs), dtype=np.bool_))
    configs = made.searcher(SPACE, rng, lambda configs: np.zeros(len(configs))).ask(8)
    assert 0 < len(choose.pick(configs, np.zeros(len(configs)), 8)) <= 8


def test_a_cost_model_comes_with_what_goes_by_scores() -> None:
    assert combine("random", "top").model is None
    assert combine("random", "adaptive").model is not None
    assert combine("annealing", "top").model is not None


@pytest.mark.parametrize(("searcher", "sampler"), [("bfs", "top"), ("random", "best")])
def test_names_that_do_not_exist(searcher: str, sampler: str) -> None:
    with pytest.raises(TilewrightError, match="is one of"):
        combine(searcher, sampler)


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tilewright\[rl\]'"):
        combine("ppo", "top")


def stored(template: str) -> StoredModel:
    class Model:
        ready = True

        def fit(self, programs: object, seconds: object) -> None: ...

        def predict(self, programs: object) -> np.ndarray:
            return np.arange(len(programs), dtype=np.float64)  # type: ignore[arg-type]

    return StoredModel("xgb_reg", template, Model())


@pytest.mark.parametrize("name", ["bayesian", "annealing"])
def test_a_prior_counts_for_all_versions_of_its_template_only(name: str) -> None:
    programs = SPACE.loop_nest(sample(SPACE, np.random.default_rng(0), 5))
    for template, ready in ((SPACE.template, True), ("toy-matmul/99", True), ("contraction/1", False)):
        made = combine(name, "top", prior=stored(template))
        assert made.model is not None
        model = made.model(SPACE, 0)
        assert model.ready == ready
        assert (model.predict(programs).max() > 0) == ready
        assert len(made.searcher(SPACE, np.random.default_rng(0), lambda c: np.zeros(len(c))).ask(4)) == 4


def test_the_default_has_a_name_that_says_what_it_is() -> None:
    assert default().name == "bayesian"
    assert default().model is None
    assert default(stored("toy/1")).name == "bayesian+xgb_reg"
