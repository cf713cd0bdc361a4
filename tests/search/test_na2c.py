"""N-A2C walks from the fastest, a few small steps at a time, and learns which moves pay."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import ToySpace, plain
from tilewright.search.na2c import NA2CParameters, NeighbourhoodActorCritic, _describe_choices, _Network
from tilewright.space.configs import sample
from tilewright.space.knob import ChoiceKnob, SplitKnob
from tilewright.space.space import Configs

torch = pytest.importorskip("torch")
SPACE = ToySpace(plain(*[10] * 8))


def latency(configs: Configs) -> NDArray[np.float64]:
    """Seconds: 1 ms where every knob is at 7."""
    return np.asarray(1e-3 * (1.0 + np.abs(configs - 7).sum(axis=1)))


def odds(network: _Network, state: NDArray[np.float32]) -> NDArray[np.float64]:
    logits = np.exp(network.logits(state)[0])
    return np.asarray(logits / logits.sum())


def test_an_action_that_pays_becomes_more_likely() -> None:
    network = _Network(3, 4, NA2CParameters(discount=0.0), np.random.default_rng(0))
    state = np.asarray([[0.1, -0.2, 0.3]], dtype=np.float32)
    before = odds(network, state)[2]
    states, actions = np.repeat(state, 8, axis=0), np.arange(8) % 4
    for _ in range(40):
        network.learn(states, np.ones((8, 4), dtype=np.bool_), actions, states, (actions == 2).astype(float))
    assert odds(network, state)[2] > 1.2 * before


def test_actions_that_lead_nowhere_learn_nothing() -> None:
    network = _Network(3, 4, NA2CParameters(), np.random.default_rng(0))
    state = np.zeros((1, 3), dtype=np.float32)
    network.learn(state, np.asarray([[True, True, False, False]]), np.asarray([0]), state, np.ones(1))
    assert np.isfinite(network.logits(state)).all()


def test_making_a_network_draws_nothing_from_pytorch() -> None:
    before = torch.get_rng_state()
    _Network(3, 4, NA2CParameters(), np.random.default_rng(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("length", [1, 3])
def test_walks_begin_at_the_fastest_and_are_as_long_as_said(length: int) -> None:
    search = NeighbourhoodActorCritic(SPACE, np.random.default_rng(0), parameters=NA2CParameters(length=length))
    told = np.asarray([[2] * 8, [6] * 8], dtype=np.int32)
    search.tell(told, latency(told))
    away = np.abs(search.ask(12) - 6).sum(axis=1)
    assert away.min() == 1
    assert away.max() == length


def test_it_moves_its_centre_and_descends() -> None:
    search = NeighbourhoodActorCritic(SPACE, np.random.default_rng(0))
    best = np.inf
    for _ in range(30):
        batch = search.ask(16)
        search.tell(batch, latency(batch))
        best = min(best, float(latency(batch).min()))
    assert best <= 4e-3


def test_a_scorer_chooses_where_to_begin() -> None:
    search = NeighbourhoodActorCritic(SPACE, np.random.default_rng(0), lambda configs: -latency(configs))
    first = search.ask(9)[1:]
    assert latency(first).max() < np.quantile(latency(sample(SPACE, np.random.default_rng(1), 512)), 0.1)


def test_states_are_factors_over_the_extent_less_a_half() -> None:
    split = SplitKnob.exact("tile", 8, 2)
    assert np.allclose(_describe_choices(split), split.table / 8 - 0.5)
    assert np.allclose(_describe_choices(ChoiceKnob.of("unroll", [1, 4, 16]))[:, 0], [-0.5, 0.0, 0.5])


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    search = NeighbourhoodActorCritic(SPACE, np.random.default_rng(0))
    for _ in range(2):
        batch = search.ask(4)
        search.tell(batch, latency(batch))
    assert torch.get_num_threads() == before
