"""Methods by name: each makes what it says, and knows what it needs."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from tests.toys import TableSpace
from tilewright.errors import MissingExtraError, TilewrightError
from tilewright.tuning import method
from tilewright.tuning.method import SAMPLERS, SEARCHERS, combine

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
    monkeypatch.setattr(method, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tilewright\[rl\]'"):
        combine("ppo", "top")
