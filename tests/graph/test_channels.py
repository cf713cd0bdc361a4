"""Orders of channels, and groups as lattices of places."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilewright.graph.channels import Lattice, find_lattice, grouped_order, padded_order, permuted


def test_orders() -> None:
    assert padded_order(3, 4) == (0, 1, 2, -1)
    assert padded_order(4, 4) == (0, 1, 2, 3)
    assert grouped_order(2, 3, 4) == (0, 1, 2, -1, 3, 4, 5, -1)


def test_a_shuffle_renames_channels() -> None:
    # Channels 0 1 2 | 3 4 5 become 0 3 | 1 4 | 2 5: what was channel 3 is now channel 1.
    assert permuted(range(6), (2, 3), (1, 0)) == (0, 2, 4, 1, 3, 5)
    assert permuted(grouped_order(2, 3, 4), (2, 3), (1, 0)) == (0, 2, 4, -1, 1, 3, 5, -1)


def test_groups_of_a_shuffled_tensor_are_four_stretches() -> None:
    order = permuted(grouped_order(4, 68, 8), (4, 68), (1, 0))
    at = {c: p for p, c in enumerate(order)}
    groups = [[at[g * 68 + i] for i in range(68)] for g in range(4)]
    assert find_lattice(groups, len(order)) == Lattice(4, 72, 17, 17)


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 8), st.integers(1, 4))
def test_a_lattice_covers_its_groups(groups: int, each: int, multiple: int, shuffles: int) -> None:
    order = permuted(grouped_order(groups, each, multiple), (groups, each), (1, 0))
    wanted = [c for c in range(groups * each) if c % shuffles == 0] or [0]
    at = {c: p for p, c in enumerate(order)}
    members = [[at[c] for c in part] for part in np.array_split(wanted, min(groups, len(wanted)))]
    lattice = find_lattice(members, len(order))
    for group, places in enumerate(members):
        covered = lattice.places(group)
        assert len(covered) == lattice.size == len(set(covered))
        assert set(places) <= set(covered)
        assert max(covered) < len(order)
