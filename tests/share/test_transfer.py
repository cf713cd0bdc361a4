"""Configs carried from one space to another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.space.strategies import Recipe, recipes
from tests.toys import SwitchedSpace, TableSpace, ToySpace, plain
from tilewright.share.transfer import comparable, distance, map_configs, translate
from tilewright.space.configs import choices_of, distinct, keys, neighbours, sample
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob
from tilewright.space.space import Configs


def all_of(space: ToySpace) -> Configs:
    return sample(space, np.random.default_rng(0), 300)


@given(recipes(300))
def test_onto_itself_nothing_changes(recipe: Recipe) -> None:
    space = recipe.space()
    configs = all_of(space)
    assert (map_configs(space.knobs, configs, space) == configs).all()


@given(recipes(300), st.lists(st.integers(2, 9), min_size=4, max_size=4), st.sampled_from([1, 2, 5]))
def test_what_arrives_is_valid_distinct_and_in_order(recipe: Recipe, scale: list[int], sieve: int) -> None:
    """Into a space with the same kinds of knobs and other numbers."""
    source = recipe.space()
    numbers = [(kind, n if kind == "order" else n * s, x) for (kind, n, x), s in zip(recipe.knobs, scale, strict=False)]
    target = Recipe(tuple(numbers), sieve, recipe.start).space()
    configs = all_of(source)
    found = map_configs(source.knobs, configs, target)
    assert target.valid(found).all()
    assert len(np.unique(keys(found))) == len(found) <= len(configs)
    alone = [map_configs(source.knobs, row[None], target) for row in configs]
    assert (distinct(np.concatenate(alone)) == found).all()


def test_the_same_choice_is_kept_whatever_its_number() -> None:
    source = (SplitKnob.exact("tile", 64, 3), ChoiceKnob.of("u", [1, 2, 4]), OrderKnob.of("o", [(0, 1), (1, 0)]))
    target = (SplitKnob.exact("tile", 192, 3), ChoiceKnob.of("u", [4, 2, 1]), OrderKnob.of("o", [(1, 0), (0, 1)]))
    one, other = ToySpace(source), ToySpace(target)
    configs = sample(one, np.random.default_rng(0), 50)
    for row, there in zip(configs, translate(source, configs, target), strict=True):
        (tile, *rest), (tile_there, *rest_there) = choices_of(one, row), choices_of(other, there)
        assert tile[1:] == tile_there[1:]
        assert rest == rest_there


def test_otherwise_the_nearest_factor_by_ratio() -> None:
    source, target = (SplitKnob.exact("tile", 256, 2),), (SplitKnob.exact("tile", 49 * 5, 2),)
    rows = np.arange(len(source[0]), dtype=np.int32)[:, None]
    found = {
        source[0].choices[i][1]: target[0].choices[j][1]
        for (i,), (j,) in zip(rows.tolist(), translate(source, rows, target).tolist(), strict=True)
    }
    assert found == {1: 1, 2: 1, 4: 5, 8: 7, 16: 7, 32: 35, 64: 49, 128: 245, 256: 245} | {16: found[16]}


def test_other_knobs_take_nothing() -> None:
    one: tuple[Knob, ...] = (ChoiceKnob.of("u", [1, 2]),)
    rows = np.zeros((1, 1), dtype=np.int32)
    for other in (plain(2), (OrderKnob.of("u", [(0,), (1,)]),), (SplitKnob.exact("u", 4, 2),), plain(2, 2)):
        assert not comparable(one, other)
        assert map_configs(one, rows, ToySpace(other)).shape == (0, len(other))
    assert not comparable((SplitKnob.exact("u", 4, 3),), (SplitKnob.exact("u", 4, 2),))


def test_an_invalid_config_is_repaired_by_one_knob_if_one_is_enough() -> None:
    free = ToySpace(plain(6, 6, 6))
    bound = ToySpace(free.knobs, lambda c: np.asarray(c.sum(axis=1) <= 9))
    configs = all_of(free)
    mapped = 0
    for row in configs:
        found = map_configs(free.knobs, row[None], bound)
        if len(found):
            mapped += 1
            changed = int((found[0] != row).sum())
            near = neighbours(bound, row)
            assert changed == (0 if bound.valid(row[None])[0] else 1 if bound.valid(near).any() else 2)
            if changed == 1:  # and as little as possible
                valid = near[bound.valid(near)]
                assert distance(free.knobs, found, row[None])[0, 0] == distance(free.knobs, valid, row[None]).min()
    assert mapped == len(configs) == 216


def test_where_nothing_near_is_valid_nothing_is_made_up() -> None:
    def far(configs: Configs) -> NDArray[np.bool_]:
        return np.asarray((configs == 9).all(axis=1))

    target = ToySpace(plain(*[10] * 5), far, (9,) * 5)
    assert len(map_configs(target.knobs, np.zeros((1, 5), dtype=np.int32), target)) == 0
    near = np.asarray([[9, 9, 0, 0, 0], [9, 9, 9, 9, 0]], dtype=np.int32)
    assert map_configs(target.knobs, near, target).tolist() == [[9] * 5]


def test_idle_knobs_are_0() -> None:
    space = SwitchedSpace()
    rows = np.asarray([[0, 4, 5, 6, 2]], dtype=np.int32)
    assert map_configs(space.knobs, rows, space).tolist() == [[0, 0, 0, 0, 0]]


def test_nothing_comes_of_nothing() -> None:
    table = TableSpace()
    assert map_configs(table.knobs, np.empty((0, 5), dtype=np.int32), table).shape == (0, 5)
    assert map_configs((), np.zeros((2, 0), dtype=np.int32), ToySpace(())).shape == (1, 0)
