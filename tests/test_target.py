"""What the compiler is told of a machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tilewright.processor import lacks
from tilewright.target import Target

pytestmark = pytest.mark.fast


def test_code_for_this_machine_uses_nothing_that_it_hides() -> None:
    """Virtual machines hide extensions that a processor of the same model has."""
    target = Target.parse()
    assert target.extensions
    assert lacks(target.extensions) == []
    assert not set(target.without) & set(target.extensions)


@pytest.mark.parametrize("mcpu", ["sapphirerapids", "emeraldrapids", "znver4"])
def test_hidden_extensions_are_not_used_and_are_part_of_the_key(mcpu: str) -> None:
    whole = Target.parse(f"llvm:{mcpu}")
    hidden = replace(whole, without=("avx512bf16", "avx512vnni"))
    assert set(whole.extensions) - set(hidden.extensions) == set(hidden.without)
    assert whole.key != hidden.key
    assert replace(whole, without=()).key == whole.key
