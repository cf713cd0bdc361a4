"""Lookups in tables of 256 bytes: the instruction of each target, and every byte."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels import assembly, call_kernel
from tests.targets import lane_target, require
from tilewright.graph.tasks import task_of
from tilewright.ops.elementwise.lookup import lookup
from tilewright.ops.registry import make_space
from tilewright.target import Target


@pytest.mark.parametrize(
    ("cpu", "names"),
    [
        ("icelake-server", {"vpermi2b", "vpermt2b"}),
        ("cascadelake", {"vpshufb"}),
        ("haswell", {"vpshufb"}),
        ("x86-64-v2", set()),
    ],
)
def test_a_target_looks_up_in_registers(cpu: str, names: set[str]) -> None:
    target = Target.parse(f"llvm:{cpu}:x86_64-linux-gnu")
    space = make_space(task_of("lookup", lookup((4, 64)), (1,)), target)
    code = assembly(space.schedule(space.default()).mod, target)
    found = {name for name in ("vpermi2b", "vpermt2b", "vpshufb") if name in code}
    assert bool(found & names) is bool(names)
    assert "vpermi2b" in names or not found & {"vpermi2b", "vpermt2b"}


@pytest.mark.parametrize("lanes", [4, 8, 16, 0], ids=lambda lanes: f"{lanes} lanes" if lanes else "this machine")
def test_every_byte_is_looked_up(lanes: int) -> None:
    from tvm import runtime

    target = lane_target(lanes) if lanes else Target.parse()
    require(target)
    rng = np.random.default_rng(0)
    data, table = rng.permutation(256 * 3).astype(np.uint8).reshape(3, 256), rng.permutation(256).astype(np.uint8)
    space = make_space(task_of("lookup", lookup(data.shape), (1,)), target)
    result = runtime.tensor(np.zeros_like(data))
    call_kernel(space.schedule(space.default()).mod, target, *map(runtime.tensor, (data, table)), result)
    assert np.array_equal(result.numpy(), table[data])
