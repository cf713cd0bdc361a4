"""PPO's policy is trained, its episodes end as published, and it leaves nothing behind."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import ToySpace, plain
from tilewright.search.ppo import PPOSearch, _Walk
from tilewright.space.space import Configs

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")
SPACE = ToySpace(plain(*[10] * 8))


def score(configs: Configs) -> NDArray[np.float64]:
    """0 where every knob is at 7."""
    return np.asarray(-np.abs(configs - 7).sum(axis=1), dtype=np.float64)


def told(space: ToySpace = SPACE, walkers: int = 32, steps: int = 16) -> PPOSearch:
    search = PPOSearch(space, np.random.default_rng(0), score, walkers=walkers, steps=steps)
    search.tell(space.default()[None], np.ones(1))
    return search


def walk(space: ToySpace, walkers: int = 4) -> _Walk:
    made = _Walk(space, np.random.default_rng(0), score, walkers)
    made.start()
    return made


def test_the_policy_is_trained_and_kept() -> None:
    search = told()
    assert search._agent is not None
    weights = [torch.nn.utils.parameters_to_vector(search._agent.policy.parameters()).detach().clone()]
    for _ in range(2):
        search.ask(4)
        weights.append(torch.nn.utils.parameters_to_vector(search._agent.policy.parameters()).detach().clone())
    assert not torch.equal(weights[0], weights[1])
    # The second ask goes on from the first: it is no new policy.
    assert (weights[2] - weights[1]).norm() < 0.5 * weights[0].norm()


def test_the_policy_learns_to_go_uphill() -> None:
    space = ToySpace(plain(10, 10))
    search = PPOSearch(space, np.random.default_rng(0), lambda c: c.sum(axis=1).astype(float), walkers=64, steps=32)
    search.tell(space.default()[None], np.ones(1))
    for _ in range(8):
        search.ask(1)
    assert search._agent is not None
    middle = torch.full((1, 2), 0.5)
    for knob in search._agent.policy.get_distribution(middle).distribution:
        down, _, up = knob.probs[0].tolist()
        assert up > 1.5 * down


def test_proposals_are_the_best_that_were_met() -> None:
    met: list[Configs] = []

    def remembered(configs: Configs) -> NDArray[np.float64]:
        met.append(configs)
        return score(configs)

    search = PPOSearch(SPACE, np.random.default_rng(0), remembered, walkers=16, steps=8)
    search.tell(SPACE.default()[None], np.ones(1))
    found = score(search.ask(8))
    assert (np.diff(found) <= 0).all()
    assert (found == np.sort(score(np.unique(np.concatenate(met), axis=0)))[::-1][:8]).all()


def test_an_episode_ends_when_three_quarters_of_the_knobs_stay_or_are_at_a_bound() -> None:
    walkers = walk(ToySpace(plain(*[10] * 8, 1)))  # what has no choice does not count
    walkers._points[:] = [0, 0, 9, 9, 5, 5, 5, 5, 0]
    actions = np.asarray(
        [
            [0, 0, 2, 2, 1, 1, 2, 0],  # four at a bound, two stay: 6 of 8
            [0, 0, 2, 2, 1, 2, 2, 0],  # 5 of 8
            [1, 1, 1, 1, 1, 1, 1, 1],
            [2, 2, 0, 0, 2, 2, 2, 2],
        ]
    )
    seen, _, ended = walkers.step(actions)
    assert ended.tolist() == [True, False, True, False]
    assert np.allclose(seen[1] * 9, [0, 0, 9, 9, 5, 6, 6, 4])
    assert np.allclose(seen[3] * 9, [1, 1, 8, 8, 6, 6, 6, 6])


def test_a_step_into_the_invalid_moves_what_it_may() -> None:
    space = ToySpace(plain(3, 3), lambda c: ~(c == 2).all(axis=1))
    walkers = walk(space, walkers=64)
    walkers._points[:] = 1
    walkers.step(np.full((64, 2), 2))
    assert space.valid(walkers._points).all()
    # Both moves are left with a chance of 1/4, and then it is tried again; one with 1/2; else none: 0.66 on average.
    assert 0.5 < (walkers._points.sum(axis=1) == 3).mean() < 0.8


@pytest.mark.parametrize(("walkers", "steps"), [(1, 1), (1, 7), (5, 5), (16, 6), (128, 2)])
def test_minibatches_divide_any_buffer(walkers: int, steps: int) -> None:
    search = told(walkers=walkers, steps=steps)
    assert len(search.ask(4)) == 4


def test_nothing_global_is_changed() -> None:
    places = {path.name for path in Path(tempfile.gettempdir()).glob("SB3-*")}
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), torch.get_num_threads()  # type: ignore[index]
    told().ask(4)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), torch.get_num_threads()  # type: ignore[index]
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert before[3] == after[3]
    assert {path.name for path in Path(tempfile.gettempdir()).glob("SB3-*")} == places


def test_the_global_state_changes_nothing() -> None:
    proposals = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        proposals.append(told().ask(8))
    assert (proposals[0] == proposals[1]).all()
