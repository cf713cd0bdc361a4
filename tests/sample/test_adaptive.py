from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.space.strategies import Recipe, recipes
from tests.toys import TableSpace, ToySpace, plain
from tilewright.sample.adaptive import Adaptive
from tilewright.space.configs import ConfigSet, Contains, distinct, sample, size
from tilewright.space.knob import ChoiceKnob, OrderKnob, SplitKnob
from tilewright.space.space import Configs, DesignSpace

TABLE = TableSpace()
GRID = ToySpace(plain(100, 100))


def nothing(configs: Configs) -> NDArray[np.bool_]:
    return np.zeros(len(configs), dtype=np.bool_)


def adaptive(
    space: DesignSpace, measured: Contains = nothing, *, seed: int = 0, step: int = 8, knee: float = 2.5, plan: int = 64
) -> Adaptive:
    return Adaptive(space, np.random.default_rng(seed), measured, step=step, knee=knee, plan=plan)


def rows(*configs: tuple[int, ...]) -> Configs:
    return np.asarray(configs, dtype=np.int32)


def blobs(centres: Configs, members: int = 7) -> Configs:
    """A cross of alike configs around each centre, which comes last of its cross."""
    around = rows((-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1), (0, 0))[:members]
    return np.concatenate([centre + around for centre in centres]).astype(np.int32)


def chosen(configs: Configs, knee: float = 2.5, space: DesignSpace = GRID) -> int:
    return len(adaptive(space, knee=knee, plan=512).pick(configs, np.zeros(len(configs)), 64))


def test_two_groups_far_apart_give_one_config_each() -> None:
    groups = blobs(rows((10, 10), (80, 80)))
    picked = adaptive(GRID, step=2, knee=math.inf).pick(groups, np.arange(14.0), 14)
    assert picked.tolist() == [[80, 80], [10, 10]]  # the best is in the group that comes last


def test_clusters_are_added_while_the_loss_falls_by_the_knee_and_once_more() -> None:
    groups = blobs(np.asarray([(x, y) for x in (9, 29, 59, 89) for y in (9, 29, 59, 89)], dtype=np.int32))
    assert chosen(groups) == 24  # 16 clusters tell all apart: 8 to 16 pays, 16 to 24 does not
    assert chosen(groups, knee=math.inf) == 8
    assert chosen(groups, knee=1.0) == 64


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [64, 128, 512])
def test_without_groups_sixteen_are_picked(count: int, seed: int) -> None:
    configs = sample(TABLE, np.random.default_rng(seed), count)
    assert chosen(configs, space=TABLE) == 16


def test_a_centre_becomes_the_proposal_next_to_it() -> None:
    ring = rows((49, 50), (51, 50), (50, 51), (50, 48), (52, 52))  # around (50.4, 50.2), which was not proposed
    assert adaptive(GRID, step=1).pick(ring, np.zeros(5), 1).tolist() == [[51, 50]]


def synthesised(measured: ConfigSet, space: ToySpace) -> list[list[int]]:
    """From proposals that have (2, 4) at their centre and 1 and 4 as the most frequent choices."""
    proposals = rows((1, 3), (1, 5), (3, 4), (4, 4))
    picked: list[list[int]] = adaptive(space, measured.has, step=1).pick(proposals, np.zeros(4), 1).tolist()
    return picked


def test_where_the_centre_was_measured_a_config_is_made_of_the_most_frequent_choices() -> None:
    measured, space = ConfigSet(), ToySpace(plain(8, 8))
    assert synthesised(measured, space) == [[3, 4]]
    measured.add(rows((2, 4)))
    assert synthesised(measured, space) == [[1, 4]]
    measured.add(rows((1, 4)))
    assert synthesised(measured, space) == [[3, 4]]


def test_no_config_is_made_that_is_invalid() -> None:
    measured, space = ConfigSet(), ToySpace(plain(8, 8), lambda configs: (configs != [1, 4]).any(axis=1))
    measured.add(rows((2, 4)))
    assert synthesised(measured, space) == [[3, 4]]


def test_proposals_are_not_taken_for_measured() -> None:
    proposals = sample(GRID, np.random.default_rng(0), 64)
    known = ConfigSet()
    known.add(proposals)  # as a searcher's ledger has them
    picked = adaptive(GRID, known.has).pick(proposals, np.zeros(64), 64)
    np.testing.assert_array_equal(picked, adaptive(GRID).pick(proposals, np.zeros(64), 64))
    assert known.has(picked).all()


def test_the_cluster_of_the_best_comes_first() -> None:
    proposals = sample(TABLE, np.random.default_rng(0), 64)
    scores = np.random.default_rng(1).standard_normal(64)
    picked = adaptive(TABLE).pick(proposals, scores, 64)
    by_row = {tuple(row): score for row, score in zip(proposals.tolist(), scores.tolist(), strict=True)}
    assert len(picked) == 16
    # Not sorted by the picked ones' own scores, but the first half has the better clusters.
    own = [by_row[tuple(row)] for row in picked.tolist()]
    assert np.mean(own[:8]) > np.mean(own[8:])


def test_equal_ratios_of_sizes_are_equal_distances() -> None:
    sizes = [1, 8, 64, 4096, 4608, 5120]
    proposals = np.arange(6, dtype=np.int32)[:, None]
    space = ToySpace((ChoiceKnob.of("size", sizes),))
    picked = adaptive(space, step=4, knee=math.inf).pick(proposals, np.zeros(6), 4)
    assert sorted(sizes[row] for row in picked.ravel().tolist()) == [1, 8, 64, 4608]


def test_a_rare_choice_is_no_cluster_of_its_own() -> None:
    # 60 configs spread over one knob, one of them with another choice of the other knob, which has three.
    space = ToySpace(plain(61, 3))
    proposals = np.asarray([(i, int(i == 30)) for i in range(60)], dtype=np.int32)
    picked = adaptive(space, step=4, knee=math.inf).pick(proposals, np.zeros(60), 60)
    assert [30, 1] not in picked.tolist()


def test_orders_and_negative_numbers_have_places() -> None:
    space = ToySpace(
        (
            OrderKnob.of("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0)]),
            ChoiceKnob.of("shift", [-2, 0, 2]),
            SplitKnob.exact("t", 12, 2),
        )
    )
    every = sample(space, np.random.default_rng(0), size(space))
    picked = adaptive(space).pick(every, np.zeros(len(every)), 20)
    assert len(distinct(picked)) == len(picked) == 16


@given(recipe=recipes(most=300), seed=st.integers(0, 99), count=st.integers(0, 40), share=st.floats(0.0, 1.0))
@settings(max_examples=30)
def test_never_more_than_count_and_always_new(recipe: Recipe, seed: int, count: int, share: float) -> None:
    space = recipe.space()
    every = sample(space, np.random.default_rng(seed), size(space))
    cut = int(share * len(every))
    measured = ConfigSet()
    measured.add(every[:cut])
    picked = adaptive(space, measured.has, seed=seed).pick(every[cut:], np.zeros(len(every) - cut), count)
    assert min(1, count, len(every) - cut) <= len(picked) <= count
    assert len(distinct(picked)) == len(picked)
    assert space.valid(picked).all()
    assert not measured.has(picked).any()


def test_only_the_best_are_clustered() -> None:
    proposals = sample(GRID, np.random.default_rng(0), 512)
    scores = np.random.default_rng(1).standard_normal(512)
    best = ConfigSet()
    best.add(proposals[np.argsort(-scores)[:64]])
    assert best.has(adaptive(GRID).pick(proposals, scores, 16)).all()
    assert not best.has(adaptive(GRID, plan=512).pick(proposals, scores, 16)).all()


def test_rounds_of_sixteen_ask_for_the_plan() -> None:
    assert adaptive(GRID).oversampling * 16 == 64
    assert Adaptive(GRID, np.random.default_rng(0), nothing, oversampling=1.0).oversampling == 1.0


def test_it_ends_when_everything_was_measured() -> None:
    space, measured = ToySpace(plain(4, 5, 6)), ConfigSet()
    every = sample(space, np.random.default_rng(0), 120)
    sampler = adaptive(space, measured.has)
    for _ in range(120):
        left = every[~measured.has(every)]
        picked = sampler.pick(left, np.zeros(len(left)), 64)
        assert (len(picked) == 0) == (len(left) == 0)
        measured.add(picked)
    assert len(measured) == 120
