"""Stores of short vectors of bytes that lie side by side become one, and the bytes stay what they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.kernels import check_arguments, compile_module
from tests.targets import lack, lane_target
from tilewright.saturating import ROUNDING, ROUNDING_BITS

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.te import Tensor


def write_out(tensors: Sequence[Tensor], vectors: int, lanes: int) -> IRModule:
    """A function whose loop has ``vectors`` stores of ``lanes`` numbers of ``y``, the last tensor."""
    from tvm import te
    from tvm.s_tir import Schedule

    schedule = Schedule(te.create_prim_func(tensors))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    _, written_out, vector = schedule.split(loop, factors=[None, vectors, lanes])
    schedule.unroll(written_out)
    schedule.vectorize(vector)
    return schedule.mod


@pytest.mark.parametrize("lanes", [8, 16], ids=lambda lanes: f"{lanes} lanes")
@pytest.mark.parametrize("vectors", [7, 4, 2])
def test_neighbouring_vectors_are_stored_at_once(vectors: int, lanes: int) -> None:
    """Also numbers that are no bytes: their lowest byte is kept."""
    import tvm
    from tvm import te

    x = te.placeholder((3 * vectors * lanes,), "int32", name="x")
    y = te.compute(x.shape, lambda i: (x[i] * 3).astype("uint8"), name="y")
    module = write_out([x, y], vectors, lanes)
    target = lane_target(lanes)
    built = compile_module(module, target)
    code = built.mod.inspect_source("asm")
    assert "vpackusdw" in code or "vpackssdw" in code
    if not lack(target):
        numbers = np.random.default_rng(0).integers(-(1 << 31), 1 << 31, 3 * vectors * lanes).astype(np.int32)
        result = tvm.runtime.tensor(np.zeros(numbers.shape, np.uint8))
        arguments = (tvm.runtime.tensor(numbers), result)
        check_arguments(module, arguments)
        built["main"](*arguments)
        assert np.array_equal(result.numpy(), (numbers * 3).astype(np.uint8))


@pytest.mark.parametrize("lanes", [8, 16], ids=lambda lanes: f"{lanes} lanes")
@pytest.mark.parametrize("vectors", [7, 4, 2])
@pytest.mark.parametrize("kind", ["rounded", "whole"])
def test_instructions_that_pack_apply_limits_of_bytes(kind: str, vectors: int, lanes: int) -> None:
    """Of numbers that are rounded, with a zero point; and of any int32, with a number that is no byte."""
    import tvm
    from tvm import te, tirx

    rounded = kind == "rounded"
    x = te.placeholder((3 * vectors * lanes,), "float32" if rounded else "int32", name="x")
    zero = te.placeholder((1,), "uint8" if rounded else "int32", name="zero")

    def element(i: tirx.Var) -> tirx.Expr:
        whole = x[i]
        if rounded:
            whole = tirx.reinterpret("int32", x[i] + tirx.const(ROUNDING, "float32")) - tirx.const(ROUNDING_BITS)
        whole = whole + zero[0].astype("int32")
        return tirx.max(tirx.min(whole, tirx.const(255, "int32")), tirx.const(0, "int32")).astype("uint8")

    module = write_out([x, zero, te.compute(x.shape, element, name="y")], vectors, lanes)
    target = lane_target(lanes)
    built = compile_module(module, target)
    code = built.mod.inspect_source("asm")
    assert "vpackssdw" in code
    assert "vpmaxsd" not in code
    assert ("vcvtps2dq" in code) == (rounded and lanes == 8)
    if lack(target):
        return
    count, rng = 3 * vectors * lanes, np.random.default_rng(0)
    if rounded:
        numbers = rng.choice([*np.arange(-300, 300, 0.5), -(2.0**21), 2.0**21], count).astype(np.float32)
        offset = np.asarray([201], np.uint8)
        wanted = np.rint(numbers).astype(np.int64) + 201
    else:
        numbers = rng.choice([*range(-70_000, 70_000, 77), -(1 << 31), (1 << 31) - 500_000], count).astype(np.int32)
        offset = np.asarray([400_000], np.int32)
        wanted = numbers.astype(np.int64) + 400_000
    result = tvm.runtime.tensor(np.zeros(count, np.uint8))
    arguments = (tvm.runtime.tensor(numbers), tvm.runtime.tensor(offset), result)
    check_arguments(module, arguments)
    built["main"](*arguments)
    assert np.array_equal(result.numpy(), np.clip(wanted, 0, 255).astype(np.uint8))
