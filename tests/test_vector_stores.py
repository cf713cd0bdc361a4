"""Stores of short vectors of bytes that lie side by side become one, and the bytes stay what they were."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels import call_kernel
from tests.targets import lack, lane_target
from tilewright.tvm_compat import keep_nan


@pytest.mark.parametrize("lanes", [8, 16], ids=lambda lanes: f"{lanes} lanes")
@pytest.mark.parametrize("vectors", [7, 4, 2])
def test_neighbouring_vectors_are_stored_at_once(vectors: int, lanes: int) -> None:
    """Also numbers that are no bytes: their lowest byte is kept."""
    import tvm
    from tvm import te
    from tvm.s_tir import Schedule

    x = te.placeholder((3 * vectors * lanes,), "int32", name="x")
    y = te.compute(x.shape, lambda i: (x[i] * 3).astype("uint8"), name="y")
    schedule = Schedule(te.create_prim_func([x, y]))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    _, written_out, vector = schedule.split(loop, factors=[None, vectors, lanes])
    schedule.unroll(written_out)
    schedule.vectorize(vector)
    target = lane_target(lanes)
    code = tvm.compile(keep_nan(schedule.mod), target=target.tvm).mod.inspect_source("asm")
    assert "vpackusdw" in code or "vpackssdw" in code
    if not lack(target):
        numbers = np.random.default_rng(0).integers(-(1 << 31), 1 << 31, 3 * vectors * lanes).astype(np.int32)
        result = tvm.runtime.tensor(np.zeros(numbers.shape, np.uint8))
        call_kernel(schedule.mod, target, tvm.runtime.tensor(numbers), result)
        assert np.array_equal(result.numpy(), (numbers * 3).astype(np.uint8))
