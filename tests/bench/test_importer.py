"""The bench of the importer judges cases, and says which are wrong."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from bench._importer_cases import FAMILIES, case, normal
from bench.importer import agrees, judge, summarise
from tests.models import runs

#: Of each family, the numbers of a few cases whose converters TVM has wrong, or has not.
SAMPLE = {
    "unary": [73],
    "activations": [13],
    "binary": [40],
    "reductions": [4],
    "normalisations": [2],
    "attention": [1],
}


@runs
@pytest.mark.parametrize("family", SAMPLE)
def test_a_sample_is_right(family: str) -> None:
    for place in SAMPLE[family]:
        made = next(itertools.islice(FAMILIES[family](), place, None))
        entry = judge(made)
        assert (entry["outcome"], entry["segment"]) == ("right", False), f"{made.operator} {made.what}: {entry['why']}"


def test_results_of_another_dtype_are_wrong() -> None:
    right = np.zeros(3, dtype=np.float32)
    assert agrees(right + np.float32(1e-6), right)
    assert not agrees(right.astype(np.float64), right)
    assert not agrees(right + np.float32(1e-3), right)


def test_what_nothing_runs_has_no_reference() -> None:
    assert judge(case("Unheard", [normal(3)]))["outcome"] == "no reference"


def test_the_table_has_a_row_for_each_operator() -> None:
    entries: Sequence[dict[str, object]] = [
        {"operator": "Add", "outcome": "right", "segment": False},
        {"operator": "Add", "outcome": "wrong", "segment": True},
    ]
    assert summarise(entries).splitlines()[1].split() == ["Add", "2", "1", "1", "0", "0", "1"]
