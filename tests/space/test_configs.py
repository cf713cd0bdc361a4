"""Vectorised operations on configs keep what they promise for any space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toys import SwitchedSpace, ToySpace, plain, toy_spaces
from tilewright.errors import SpaceError
from tilewright.space import configs as ops
from tilewright.space.knob import ChoiceKnob, OrderKnob, SplitKnob
from tilewright.space.space import Configs

shapes = st.lists(st.integers(1, 9), max_size=6)
seeds = st.integers(0, 2**32 - 1)


def draw(space: ToySpace, seed: int, count: int) -> Configs:
    return ops.sample(space, np.random.default_rng(seed), count)


@given(shapes)
def test_size_is_the_product_of_the_cardinalities(shape: list[int]) -> None:
    space = ToySpace(plain(*shape))
    assert ops.cardinalities(space).tolist() == shape
    assert ops.cardinalities(space).dtype == np.int64
    assert ops.size(space) == int(np.prod(shape, dtype=object))


def test_size_is_exact_beyond_64_bits() -> None:
    assert ops.size(ToySpace(plain(*[1000] * 10))) == 10**30


@given(shapes, seeds, st.integers(1, 50))
def test_keys_are_equal_exactly_where_rows_are(shape: list[int], seed: int, count: int) -> None:
    highs = np.asarray(shape, dtype=np.int64)
    rows = np.random.default_rng(seed).integers(0, highs, size=(count, len(shape)), dtype=np.int32)
    names = ops.keys(rows)
    equal = (rows[:, None, :] == rows[None, :, :]).all(axis=2)
    assert ((names[:, None] == names[None, :]) == equal).all()
    assert len(np.unique(names)) == len(set(names.tolist())) == len(ops.distinct(rows))
    assert np.isin(names, names[:1]).tolist() == equal[0].tolist()
    assert (ops.from_keys(ToySpace(plain(*shape)), names.tolist()) == rows).all()


def test_distinct_keeps_the_first_of_equal_rows_in_order() -> None:
    rows = np.asarray([[3, 0], [1, 1], [3, 0], [0, 2], [1, 1]], dtype=np.int32)
    assert ops.distinct(rows).tolist() == [[3, 0], [1, 1], [0, 2]]


def test_config_set_knows_what_was_put_in() -> None:
    known = ops.ConfigSet()
    known.add(np.asarray([[1, 2], [3, 4], [1, 2]], dtype=np.int32))
    assert len(known) == 2
    assert known.has(np.asarray([[3, 4], [4, 3]], dtype=np.int32)).tolist() == [True, False]


@pytest.mark.parametrize("name", toy_spaces())
@given(seed=seeds, count=st.integers(0, 100))
@settings(max_examples=10)
def test_sample_is_valid_and_distinct_and_complete(name: str, seed: int, count: int) -> None:
    space = toy_spaces()[name]
    rows = ops.check(space, draw(space, seed, count))
    assert rows.dtype == np.int32
    assert space.valid(rows).all()
    assert len(ops.distinct(rows)) == len(rows) <= count
    exists = {"no knob": 1, "one knob": 7, "one config": 1, "all but one invalid": 1, "one of 10^12 valid": 1}
    exists |= {"half valid": 60, "idle knobs": 1 + 30 + 42 + 21, "a strip of 10^12": 100}
    assert len(rows) == min(count, exists.get(name, count))
    assert (draw(space, seed, count) == rows).all()


@given(seeds, st.integers(0, 80))
def test_sample_leaves_out_what_is_excluded(seed: int, already: int) -> None:
    space = toy_spaces()["half valid"]
    known = ops.ConfigSet()
    known.add(draw(space, seed, already))
    rows = ops.sample(space, np.random.default_rng(seed + 1), 100, known.has)
    assert not known.has(rows).any()
    assert len(rows) + len(known) == 60


def test_sample_walks_around_excluded_configs() -> None:
    space = toy_spaces()["a strip of 10^12"]
    known = ops.ConfigSet()
    known.add(space.default()[None])
    assert len(ops.sample(space, np.random.default_rng(0), 200, known.has)) == 99


def test_sample_is_uniform_among_valid_configs() -> None:
    space, rng = toy_spaces()["half valid"], np.random.default_rng(0)
    counts = np.zeros((4, 5, 6))
    for _ in range(600):
        counts[tuple(ops.sample(space, rng, 5).T)] += 1
    counts = counts[counts > 0]
    assert len(counts) == 60
    # 3,000 draws over 60 cells; the 99.99 % quantile of chi-squared with 59 degrees of freedom is 107.
    assert ((counts - 50.0) ** 2 / 50.0).sum() < 107


@given(shapes, seeds)
def test_mutate_moves_one_knob_to_another_choice(shape: list[int], seed: int) -> None:
    space, rng = ToySpace(plain(*shape)), np.random.default_rng(seed)
    rows = rng.integers(0, ops.cardinalities(space), size=(20, len(shape)), dtype=np.int32)
    before = rows.copy()
    moved = ops.check(space, ops.mutate(space, rng, rows))
    assert (rows == before).all()
    assert ((moved != rows).sum(axis=1) == (1 if any(n > 1 for n in shape) else 0)).all()


def test_mutate_reaches_every_neighbour() -> None:
    space = ToySpace(plain(3, 1, 4))
    rows = np.zeros((500, 3), dtype=np.int32)
    moved = ops.mutate(space, np.random.default_rng(0), rows)
    assert set(ops.keys(moved).tolist()) == set(ops.keys(ops.neighbours(space, rows[0])).tolist())


@given(shapes, seeds)
def test_neighbours_are_all_one_knob_changes(shape: list[int], seed: int) -> None:
    space = ToySpace(plain(*shape))
    config = np.random.default_rng(seed).integers(0, ops.cardinalities(space), dtype=np.int32)
    rows = ops.check(space, ops.neighbours(space, config))
    assert len(ops.distinct(rows)) == len(rows) == sum(shape) - len(shape)
    assert ((rows != config).sum(axis=1) == 1).all()


@given(shapes, seeds)
def test_crossover_takes_each_knob_from_a_parent(shape: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, np.asarray(shape), size=(2, 10, len(shape)), dtype=np.int32)
    child = ops.crossover(ToySpace(plain(*shape)), rng, left, right)
    assert child.dtype == np.int32
    assert ((child == left) | (child == right)).all()


def test_idle_knobs_never_move() -> None:
    space, rng = SwitchedSpace(), np.random.default_rng(0)
    rows = ops.sample(space, rng, 94)
    moved = ops.mutate(space, rng, rows)
    assert space.valid(moved).all()
    assert (moved != rows).any(axis=1).all()
    assert space.valid(ops.crossover(space, rng, rows, moved)).all()
    for row in rows:
        around = ops.neighbours(space, row)
        assert space.valid(around).all()
        assert (around != row).any(axis=1).all()
    # The first program has no other knobs: all that can change is the program.
    assert ops.neighbours(space, np.zeros(5, dtype=np.int32)).tolist() == [[i, 0, 0, 0, 0] for i in (1, 2, 3)]


def test_knob_values_are_what_the_choices_mean() -> None:
    knobs = (SplitKnob.exact("tile", 7, 2), ChoiceKnob.of("unroll", [1, 16]), OrderKnob.of("order", [(0, 1), (1, 0)]))
    values = ops.knob_values(ToySpace(knobs), np.asarray([[0, 1, 1], [1, 0, 0]], dtype=np.int32))
    assert values.dtype == np.float32
    assert values.tolist() == [[3, 1, 16, 1, 0], [1, 3, 1, 0, 1]]


def test_knob_values_without_knobs() -> None:
    assert ops.knob_values(ToySpace(()), np.zeros((3, 0), dtype=np.int32)).shape == (3, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 3), dtype=np.int32), r"shape \(n, 2\), but these have \(2, 3\)"),
        (np.zeros(2, dtype=np.int32), r"shape \(n, 2\), but these have \(2,\)"),
        (np.zeros((2, 2)), "rows of integers, but these are of type float64"),
        (np.asarray([[0, 0], [0, 5]]), r"'knob1' of toy/1 has indices 0 to 4, but row 1 has 5"),
        (np.asarray([[-1, 0]]), r"'knob0' of toy/1 has indices 0 to 3, but row 0 has -1"),
    ],
)
def test_check_refuses_what_is_not_of_the_space(rows: Configs, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        ops.check(ToySpace(plain(4, 5)), rows)
