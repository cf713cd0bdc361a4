"""Conformance of every design space, layout and rewrite with vectors of 4, 8 and 16 float32 numbers.

What is compiled for more lanes than this machine has is compiled here, and run elsewhere.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.agreement import network_error
from tests.conformance.lane_cases import CASES, describe, extraction_of, space_of
from tests.kernels import check_arguments, compile_kernel
from tests.models import defaults, write_lean
from tests.targets import LANES, lack, lane_target
from tilewright.executable.executable import load_executable
from tilewright.space.configs import sample
from tilewright.space.module import task_module

#: Random configs of each task; its default is what the network is built with.
COUNT = 1
#: Tasks of each network, the heaviest first, whose random configs are compiled: three compilations take half a second.
MOST = 3
#: Tasks that another case had, too, by their lanes.
_seen: set[tuple[str, int]] = set()
#: What untuned functions compute, by their tasks. Some tasks are the same for several lanes.
_untuned: dict[str, NDArray[np.float32] | None] = {}

each_case = pytest.mark.parametrize("name", CASES)
each_lanes = pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: f"{lanes} lanes")


def served(name: str, lanes: int) -> Counter[str]:
    """How many calls of a network each template serves."""
    found: Counter[str] = Counter()
    for use in extraction_of(name, lanes).uses:
        found[space_of(use.task, lanes).template.partition("/")[0]] += use.weight
    return found


@each_case
def test_the_same_templates_serve_a_network_whatever_the_lanes(name: str) -> None:
    case = CASES[name]
    found = [served(name, lanes) for lanes in LANES]
    for counts in found:
        assert {*case.templates} <= counts.keys()
        assert case.moves or {*case.templates} == counts.keys()
        assert {t: counts[t] for t in case.templates} == {t: found[0][t] for t in case.templates}
    assert not any(extraction_of(name, lanes).fallbacks for lanes in LANES)


@each_lanes
@each_case
def test_a_network_computes_what_onnx_runtime_does(name: str, lanes: int, tmp_path: Path) -> None:
    extraction = extraction_of(name, lanes)
    write_lean(extraction, defaults(extraction), tmp_path / "out")
    if not lack(extraction.target):
        error = network_error(load_executable(tmp_path / "out"), extraction.network)
        assert error is not None
        assert error <= 1e-4


def results(
    module: Any, lanes: int, arrays: list[NDArray[np.float32]], *, optimised: bool = True
) -> NDArray[np.float32] | None:
    """What a compiled function computes; None where this machine cannot run it."""
    import tvm

    target = lane_target(lanes)
    function = compile_kernel(module, target, optimised=optimised)
    if lack(target):
        return None
    arguments = [tvm.runtime.tensor(array) for array in arrays]
    check_arguments(module, arguments)
    function(*arguments)
    return np.asarray(arguments[-1].numpy())


@each_lanes
@each_case
def test_configs_compute_what_the_untuned_function_does(name: str, lanes: int) -> None:
    tried = 0
    for use in extraction_of(name, lanes).uses:
        space = space_of(use.task, lanes)
        if space.template.partition("/")[0] not in CASES[name].templates:
            continue  # what only moves elements
        assert space.knobs
        assert all(len(knob) > 0 for knob in space.knobs)
        assert space.valid(space.default()[None]).all()
        if (use.task.key, lanes) in _seen or tried == MOST:
            continue
        tried += 1
        _seen.add((use.task.key, lanes))
        configs = sample(space, np.random.default_rng(0), COUNT)
        assert len(configs)
        assert space.valid(configs).all()
        module = task_module(use.task)
        rng = np.random.default_rng(1)
        shapes = [[int(d) for d in p.ty.shape] for p in module["main"].params]
        arrays = [rng.uniform(0.1, 1, shape).astype(np.float32) for shape in shapes]
        arrays[-1].fill(np.nan)
        if not lack(lane_target(lanes)) and use.task.key not in _untuned:
            _untuned[use.task.key] = results(module, lanes, arrays, optimised=False)
        want = _untuned.get(use.task.key)
        for config in configs:
            found = results(space.schedule(config).mod, lanes, arrays)
            if want is not None and found is not None:
                message = f"{use.task.name}, {space.template}, {config}"
                np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4 * np.abs(want).max(), err_msg=message)


def digests() -> dict[str, str]:
    """For a comparison with another process."""
    return {"spaces": describe()}


def test_the_same_spaces_in_another_process(elsewhere: dict[str, dict[str, str]]) -> None:
    assert elsewhere["test_lanes"] == digests()
