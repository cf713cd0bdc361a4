"""The Gaussian process fits and interpolates; the search over it finds what a search should."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import TableSpace, ToySpace, plain
from tilewright.search import gaussian_process
from tilewright.search.bayesian import BayesianSearch
from tilewright.search.gaussian_process import GaussianProcess, correlation
from tilewright.search.searcher import Scorer
from tilewright.space.configs import sample
from tilewright.space.knob import ChoiceKnob, OrderKnob, SplitKnob
from tilewright.space.space import Configs

SPACE = TableSpace()


@pytest.mark.parametrize(
    "knob",
    [
        SplitKnob.exact("split", 64, 3),
        SplitKnob.of("tails", 56, [[1, 2, 3, 5, 8]]),
        ChoiceKnob.of("choice", [0, 1, 4, 16, -1]),
        OrderKnob.of("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)]),
    ],
    ids=lambda knob: knob.name,
)
def test_correlations_are_a_covariance(knob: SplitKnob) -> None:
    table = correlation(knob)
    np.testing.assert_allclose(np.diag(table), 1.0)
    np.testing.assert_allclose(table, table.T)
    assert (table[~np.eye(len(knob), dtype=np.bool_)] < 1.0).all()  # different choices are told apart
    assert np.linalg.eigvalsh(table).min() > -1e-9


def test_orders_are_alike_where_few_loops_change_places() -> None:
    table = correlation(OrderKnob.of("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)]))
    assert table[0, 1] > table[0, 2]


def fitted(count: int = 60) -> tuple[GaussianProcess, np.ndarray, np.ndarray]:
    configs = sample(SPACE, np.random.default_rng(0), count)
    values = np.log(SPACE.seconds(configs))
    values = (values - values.mean()) / values.std()
    process = GaussianProcess(SPACE)
    process.tune(configs, values)
    process.fit(configs, values)
    return process, configs, values


def test_it_interpolates_what_it_was_told() -> None:
    process, configs, values = fitted()
    mean, spread = process.predict(configs)
    assert np.abs(mean - values).max() < 0.3
    other = sample(SPACE, np.random.default_rng(1), 500)
    assert process.predict(other)[1].mean() > 2 * spread.mean()  # and knows where it is unsure


def test_it_predicts_what_it_was_not_told() -> None:
    process, _, _ = fitted()
    other = sample(SPACE, np.random.default_rng(1), 500)
    assert np.corrcoef(process.predict(other)[0], np.log(SPACE.seconds(other)))[0, 1] > 0.8


def test_joint_predictions_agree_with_single_ones() -> None:
    process, _, _ = fitted()
    other = sample(SPACE, np.random.default_rng(1), 40)
    mean, spread = process.predict(other)
    together, covariance = process.joint(other)
    np.testing.assert_allclose(together, mean)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), spread, rtol=1e-6)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


def test_the_gradient_is_that_of_the_loss() -> None:
    process, configs, values = fitted(20)
    parts = process._parts(configs, configs)
    point = np.linspace(-1.0, 0.5, 7)
    _, gradient = process._loss(point, parts, values)
    step = 1e-5 * np.eye(7)
    numeric = [(process._loss(point + s, parts, values)[0] - process._loss(point - s, parts, values)[0]) for s in step]
    np.testing.assert_allclose(gradient, np.asarray(numeric) / 2e-5, rtol=1e-4, atol=1e-5)


def test_knobs_with_many_choices_are_not_tabulated_and_predict_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tabulated = fitted()[0].predict(sample(SPACE, np.random.default_rng(1), 30))
    monkeypatch.setattr(gaussian_process, "_TABULATED", 0)
    computed = fitted()[0].predict(sample(SPACE, np.random.default_rng(1), 30))
    np.testing.assert_allclose(computed, tabulated)


def test_a_knob_without_effect_gets_little_weight() -> None:
    space = ToySpace(plain(6, 6, 6))
    configs = sample(space, np.random.default_rng(0), 60)
    values = np.abs(configs[:, 0] - 3.0) + 0.5 * configs[:, 1]
    process = GaussianProcess(space)
    process.tune(configs, (values - values.mean()) / values.std())
    assert process._parameters[2] < process._parameters[:2].min()


def test_the_optimum_of_a_table_is_found_in_few_trials() -> None:
    best = float(SPACE.seconds(sample(SPACE, np.random.default_rng(0), 10_000)).min())
    found = []
    for seed in range(6):
        search = BayesianSearch(SPACE, np.random.default_rng(seed))
        seconds = np.empty(0)
        while len(seconds) < 96:
            batch = search.ask(16)
            search.tell(batch, SPACE.seconds(batch))
            seconds = np.concatenate([seconds, SPACE.seconds(batch)])
        found.append(best / seconds.min())
    assert np.median(found) > 0.97  # one config in 1,200 is within 5 %
    assert min(found) > 0.9


def test_a_batch_is_spread_out() -> None:
    """Of a pair that tells about each other only one is wanted at first."""
    space = ToySpace(plain(40))
    search = BayesianSearch(space, np.random.default_rng(0))
    search.tell(np.asarray([[0], [20], [39]], dtype=np.int32), np.asarray([2e-3, 1e-3, 3e-3]))
    batch = np.sort(search.ask(4)[:, 0])
    assert np.diff(batch).max() > 3


def truth(sign: float) -> Scorer:
    return lambda configs: -sign * np.log(SPACE.seconds(configs))


def test_the_first_batch_is_what_the_prior_thinks_best() -> None:
    every = np.sort(SPACE.seconds(sample(SPACE, np.random.default_rng(0), 1 << 20)))
    search = BayesianSearch(SPACE, np.random.default_rng(0), truth(1.0))
    first = SPACE.seconds(search.ask(16))
    assert first.min() == every[0]
    assert np.median(first) <= every[len(every) // 50]
    cold = BayesianSearch(SPACE, np.random.default_rng(0))
    assert SPACE.seconds(cold.ask(16)).min() > every[0]


def test_a_prior_that_says_the_opposite_does_no_lasting_harm() -> None:
    best = float(SPACE.seconds(sample(SPACE, np.random.default_rng(0), 1 << 20)).min())
    found = []
    for seed in range(3):
        search = BayesianSearch(SPACE, np.random.default_rng(seed), truth(-1.0))
        fastest = np.inf
        for _ in range(8):
            configs = search.ask(16)
            search.tell(configs, SPACE.seconds(configs))
            fastest = min(fastest, float(SPACE.seconds(configs).min()))
        found.append(fastest / best)
    assert max(found) <= 1.1


@pytest.mark.parametrize("scorer", [lambda c: np.zeros(len(c)), lambda c: np.full(len(c), np.nan)])
def test_a_prior_without_an_opinion_is_none(scorer: Scorer) -> None:
    search = BayesianSearch(SPACE, np.random.default_rng(0), scorer)
    for _ in range(3):
        configs = search.ask(8)
        assert len(configs) == 8
        search.tell(configs, SPACE.seconds(configs))


def test_a_prior_that_does_not_know_some_configs() -> None:
    known = sample(SPACE, np.random.default_rng(5), 6)
    unknown = known[0]

    def score(configs: Configs) -> NDArray[np.float64]:
        return np.where((configs == unknown).all(axis=1), np.nan, -1.0 * configs.sum(axis=1))

    search = BayesianSearch(SPACE, np.random.default_rng(0), score)
    search.tell(known, SPACE.seconds(known))
    assert len(search.ask(8)) == 8


def test_failures_only_leave_the_prior_in_charge() -> None:
    search = BayesianSearch(SPACE, np.random.default_rng(0), truth(1.0))
    search.tell(search.ask(8), np.full(8, np.nan))
    assert len(search.ask(8)) == 8


def test_a_prior_may_learn_between_two_questions() -> None:
    best = SPACE.seconds(sample(SPACE, np.random.default_rng(1), 4000)).min()
    known: list[bool] = [False]
    search = BayesianSearch(SPACE, np.random.default_rng(0), lambda configs: -SPACE.seconds(configs) * known[0])
    before = search.ask(8)
    search.tell(before, SPACE.seconds(before))
    known[0] = True
    after = search.ask(4)
    assert SPACE.seconds(after).min() <= 1.02 * best
    known[0] = False
    assert len(search.ask(4)) == 4
