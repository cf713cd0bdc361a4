"""Calls of several threads run side by side in the instances of an executable."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.executables import compile_earlier, read, reseal
from tests.models import normal, runs
from tilewright.errors import OutputError, TilewrightError
from tilewright.executable.executable import load_executable
from tilewright.executable.manifest import LIBRARY

pytestmark = runs


@pytest.mark.parametrize("instances", [1, 3])
def test_threads_get_the_outputs_of_their_own_inputs(instances: int, shared: Path) -> None:
    inputs = [normal(1, 8, 10, 10, seed=seed) for seed in range(5)]
    expected = [load_executable(shared)(x)[0] for x in inputs]
    executable = load_executable(shared, instances=instances)
    wrong: list[int] = []

    def call(number: int) -> None:
        found = [executable(inputs[number])[0] for _ in range(200)]
        wrong.extend(number for y in found if not np.array_equal(y, expected[number]))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
    assert len(executable.time([inputs[0]], 3)) == 3


@pytest.mark.parametrize("instances", [0, 1025, True, 1.5, "2"])
def test_what_is_no_number_of_instances(instances: int, shared: Path) -> None:
    with pytest.raises(TilewrightError, match=f"1 to 1024 instances, .*, but {instances!r} were asked for"):
        load_executable(shared, instances=instances)


def test_an_executable_of_an_earlier_version_has_one_instance(out: Path, tmp_path: Path) -> None:
    manifest = read(out)
    manifest["plan"] |= {"tensors": [], "calls": [], "written": [], "inputs": [], "outputs": []}
    manifest |= {"inputs": [], "outputs": []}
    shutil.copyfile(compile_earlier(tmp_path), out / LIBRARY)
    manifest["target"]["features"] = []
    reseal(out, manifest)
    assert load_executable(out)() == []
    with pytest.raises(OutputError, match=r"2 instances were asked for of one .* tune again"):
        load_executable(out, instances=2)
