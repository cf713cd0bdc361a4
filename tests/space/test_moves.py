"""Small moves: to where they lead, and that they lead everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toys import SwitchedSpace, ToySpace, toy_spaces
from tilewright.space.configs import distinct, sample
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob
from tilewright.space.moves import Moves, nearby, steps

KNOBS: dict[str, Knob] = {
    "exact": SplitKnob.exact("t", 360, 3),
    "tails": SplitKnob.of("t", 14, [list(range(1, 15))]),
    "tails of two": SplitKnob.of("t", 13, [[1, 2, 3], [1, 4, 5, 7]]),
    "one": SplitKnob.exact("t", 1, 2),
    "choice": ChoiceKnob.of("c", [1, 2, 4, 8]),
    "order": OrderKnob.of("o", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0)]),
}
knobs = pytest.mark.parametrize("knob", KNOBS.values(), ids=KNOBS)


@knobs
def test_near_is_mutual_and_not_oneself(knob: Knob) -> None:
    near = nearby(knob)
    assert len(near) == len(knob)
    for index, others in enumerate(near):
        assert index not in others
        assert list(others) == sorted(set(others.tolist()))
        assert all(index in near[other] for other in others.tolist())


@knobs
def test_every_choice_is_reached_by_small_moves(knob: Knob) -> None:
    near = nearby(knob)
    reached, border = {0}, [0]
    while border:
        border = [o for i in border for o in near[i].tolist() if o not in reached]
        reached |= set(border)
    assert reached == set(range(len(knob)))


@knobs
def test_steps_lead_to_what_is_near(knob: Knob) -> None:
    table, near = steps(knob), nearby(knob)
    assert table.shape[0] == len(knob)
    for index, row in enumerate(table):
        assert set(row[row >= 0].tolist()) <= set(near[index].tolist())


def test_a_prime_moves_from_one_loop_to_another() -> None:
    knob = SplitKnob.exact("t", 12, 2)
    at = {choice: index for index, choice in enumerate(knob.choices)}
    assert {knob.choices[i] for i in nearby(knob)[at[6, 2]]} == {(3, 4), (2, 6), (12, 1), (4, 3)}


@given(st.sampled_from(sorted(toy_spaces())), st.integers(0, 1000))
def test_neighbours_are_valid_and_differ_in_one_knob(name: str, seed: int) -> None:
    space: ToySpace = toy_spaces()[name]
    config = sample(space, np.random.default_rng(seed), 1)[0]
    near = Moves(space).of(config)
    assert space.valid(near).all()
    assert len(distinct(near)) == len(near)
    assert (near != config).any(axis=1).all()
    if not isinstance(space, SwitchedSpace):
        assert ((near != config).sum(axis=1) == 1).all()
