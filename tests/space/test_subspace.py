"""Parts of spaces: the same programs with fewer choices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.space.strategies import HUGE, Recipe, recipes
from tests.toys import SwitchedSpace, TableSpace, ToySpace, plain
from tilewright.errors import SpaceError
from tilewright.space.configs import ConfigSet, canonical, cardinalities, choices_of, distinct, mutate, sample, size
from tilewright.space.space import DesignSpace
from tilewright.space.subspace import Subspace, thinned

ROOT = Path(__file__).parents[2]
TABLE = TableSpace()
SWITCHED = SwitchedSpace()


def every_valid(space: DesignSpace) -> int:
    return len(sample(space, np.random.default_rng(0), size(space)))


def part_of(space: ToySpace, seed: int) -> Subspace:
    """With a random part of the choices."""
    rng = np.random.default_rng(seed)
    idle = {0} if isinstance(space, SwitchedSpace) else set()
    starts = space.default().tolist()
    kept = [
        sorted({start, *idle, *np.flatnonzero(rng.random(len(knob)) < 0.5).tolist()})
        for knob, start in zip(space.knobs, starts, strict=True)
    ]
    return Subspace(space, kept)


@given(recipe=recipes(most=500), seed=st.integers(0, 999))
def test_a_part_means_what_the_whole_means(recipe: Recipe, seed: int) -> None:
    whole = recipe.space()
    part = part_of(whole, seed)
    rows = np.random.default_rng(seed).integers(0, cardinalities(part), size=(50, len(part.knobs)), dtype=np.int32)
    there = part.of_whole(rows)
    assert there.dtype == np.int32
    np.testing.assert_array_equal(part.valid(rows), whole.valid(there))
    assert [choices_of(part, row) for row in rows] == [choices_of(whole, row) for row in there]
    assert len(distinct(there)) == len(distinct(rows))


@given(recipe=recipes(most=500), seed=st.integers(0, 999))
def test_the_default_stays(recipe: Recipe, seed: int) -> None:
    whole = recipe.space()
    for part in (part_of(whole, seed), thinned(whole, 10)):
        assert part.default().dtype == np.int32
        np.testing.assert_array_equal(part.of_whole(part.default()[None])[0], whole.default())
        assert part.valid(part.default()[None]).all()


def test_a_part_of_the_whole_is_the_whole() -> None:
    part = Subspace(TABLE, [range(len(knob)) for knob in TABLE.knobs])
    rows = sample(TABLE, np.random.default_rng(0), 20)
    assert part.knobs == TABLE.knobs
    np.testing.assert_array_equal(part.of_whole(rows), rows)
    assert part.template != TABLE.template  # records of one are not those of the other


def test_the_closed_form_is_that_of_the_whole() -> None:
    part = part_of(TABLE, 0)
    rows = sample(part, np.random.default_rng(0), 20)
    mine, other = part.loop_nest(rows), TABLE.loop_nest(part.of_whole(rows))
    assert part.has_loop_nest
    assert vars(mine).keys() == vars(other).keys()
    for name, value in vars(mine).items():
        np.testing.assert_array_equal(value, getattr(other, name))


def test_programs_are_those_of_the_whole() -> None:
    with pytest.raises(SpaceError, match="is a toy and has no programs"):
        part_of(TABLE, 0).schedule(np.zeros(5, dtype=np.int32))


@given(st.integers(0, 999))
def test_idle_knobs_stay_idle(seed: int) -> None:
    part = part_of(SWITCHED, seed)
    rng = np.random.default_rng(seed)
    rows = canonical(part, rng.integers(0, cardinalities(part), size=(30, 5), dtype=np.int32))
    assert rows.dtype == np.int32
    assert part.valid(rows).all()
    np.testing.assert_array_equal(part.of_whole(rows), SWITCHED.canonical(part.of_whole(rows)))
    assert part.valid(mutate(part, rng, rows)).all()


def test_only_spaces_with_idle_knobs_have_canonical_parts() -> None:
    rows = np.zeros((1, 5), dtype=np.int32)
    assert not hasattr(part_of(TABLE, 0), "canonical")
    assert canonical(part_of(TABLE, 0), rows) is rows


def test_a_part_of_a_part() -> None:
    outer = Subspace(ToySpace(plain(6, 6)), [[0, 2, 4], [0, 1, 5]])
    inner = Subspace(outer, [[0, 2], [0, 2]])
    assert inner.of_whole(np.asarray([[1, 1]], dtype=np.int32)).tolist() == [[2, 2]]
    assert [knob.choices for knob in inner.knobs] == [((0,), (4,)), ((0,), (5,))]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([[0, 1]], "has 2 knobs, but choices are kept of 1"),
        ([[1, 2], [0]], r"of knob 'knob0' with 4 choices .* with \[0\] among them, but not \[1, 2\]"),
        ([[0], []], r"of knob 'knob1' .* but not \[\]"),
        ([[0, 2, 1], [0]], r"ascending, .* but not \[0, 2, 1\]"),
        ([[0, 0], [0]], r"but not \[0, 0\]"),
        ([[0, 4], [0]], r"but not \[0, 4\]"),
        ([[-1, 0], [0]], r"but not \[-1, 0\]"),
    ],
)
def test_choices_that_cannot_be_kept_are_refused(kept: list[list[int]], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Subspace(ToySpace(plain(4, 5)), kept)


def test_idle_knobs_need_their_zero() -> None:
    whole = SwitchedSpace()
    object.__setattr__(whole, "start", (1, 2, 0, 0, 0))
    with pytest.raises(SpaceError, match=r"with \[0, 2\] among them, but not \[2, 3\]"):
        Subspace(whole, [[0, 1], [2, 3], [0], [0], [0]])


@pytest.mark.parametrize("most", [1, 50, 500, 5000, 10_000])
@pytest.mark.parametrize("whole", [TABLE, SWITCHED], ids=["table", "idle knobs"])
def test_a_thinned_space_is_small_enough_and_no_smaller_than_it_must(whole: ToySpace, most: int) -> None:
    part = thinned(whole, most)
    assert every_valid(part) <= most or all(len(knob) <= 2 for knob in part.knobs)
    if most >= every_valid(whole):
        assert part.knobs == whole.knobs
    elif most >= 50:  # every other choice goes, so about half of the configs
        assert every_valid(part) > most / 4
    known = ConfigSet()
    known.add(sample(whole, np.random.default_rng(0), size(whole)))
    assert known.has(part.of_whole(sample(part, np.random.default_rng(0), size(part)))).all()


@pytest.mark.parametrize("sieve", [1, 4, 1 << 40])
def test_large_spaces_are_thinned_whatever_is_valid(sieve: int) -> None:
    part = thinned(Recipe(HUGE.knobs, sieve).space(), 4000)
    rows = np.random.default_rng(1).integers(0, cardinalities(part), size=(20_000, len(part.knobs)), dtype=np.int32)
    assert size(part) * part.valid(rows).mean() <= 2 * 4000
    assert size(part) <= 4000 * 20_000  # where none of 20,000 was valid, one might have been


def test_the_same_part_in_another_process() -> None:
    program = (
        "from tests.space.test_subspace import *\n"
        "for space in (TABLE, HUGE.space()): print([k.tolist() for k in thinned(space, 400).kept])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    here = [str([k.tolist() for k in thinned(space, 400).kept]) for space in (TABLE, HUGE.space())]
    assert done.stdout.splitlines() == here
