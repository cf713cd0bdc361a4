"""Plans that would reach outside of their memory are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.executables import read, reseal
from tests.models import runs
from tilewright.errors import OutputError
from tilewright.executable.executable import load_executable

pytestmark = runs


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("arena_bytes",), 2**60),
        (("arena_bytes",), 64),
        (("arena_bytes",), -1),
        (("arena_bytes",), 1e3),
        (("tensors", 0, 0), "elsewhere"),
        (("tensors", 0, 1), 2**40),
        (("tensors", 0, 1), 4),
        (("vector",), 4),
        (("tensors", 0, 2), [2**20, 2**10]),
        (("tensors", 0, 3), "O"),
        (("calls", 0, 0), "../main"),
        (("calls", 0, 0), "no_such_kernel"),
        (("calls", 0), ["", [0]]),
        (("calls", 0, 1), [99]),
        (("inputs",), [-1]),
        (("outputs",), [77]),
        (("outputs",), []),
    ],
    ids=str,
)
def test_a_plan_that_would_reach_outside_of_its_memory(path: tuple[Any, ...], value: Any, out: Path) -> None:
    manifest = read(out)
    place = manifest["plan"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    reseal(out, manifest)
    with pytest.raises(OutputError, match=r"cannot be loaded here: .*tune again"):
        load_executable(out)
