"""Operators on constants alone: no kernel of theirs runs while the network is compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright.compiling.kernels import compile_machine
from tilewright.target import Target


def module_of(operator: Callable[..., Any], divisor: list[int], count: int = 1) -> Any:
    """The input plus constants that ``operator`` was applied to ``count`` times."""
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "int64"))
    with builder.function("main", [x]):
        with builder.dataflow():
            value = relax.const(np.asarray([7, 8, 9, 10]), "int64")
            for _ in range(count):
                value = builder.emit(operator(value, relax.const(np.asarray(divisor), "int64")))
            output = builder.emit_output(relax.op.add(x, value))
        builder.emit_func_output(output)
    return builder.finalize()


@pytest.mark.parametrize("name", ["floor_divide", "mod", "floor_mod"])
def test_a_division_by_zero_does_not_end_the_process(tmp_path: Path, name: str) -> None:
    from tvm import relax

    target = Target.parse("native")
    compile_machine(module_of(getattr(relax.op, name), [1, 0, 3, 4]), target, tmp_path / "kernels.so")
    assert (tmp_path / "kernels.so").stat().st_size > 0


@pytest.mark.parametrize("count", [2, 70])
def test_they_are_computed_when_the_network_runs(tmp_path: Path, count: int) -> None:
    import tvm
    from tvm import relax

    target = Target.parse("native")
    compile_machine(module_of(relax.op.multiply, [1, -1, 1, 1], count), target, tmp_path / "kernels.so")
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / "kernels.so")), tvm.cpu())
    given = machine["main"](tvm.runtime.tensor(np.asarray([1, 1, 1, 1])))
    np.testing.assert_array_equal(given.numpy(), [8, 9, 10, 11])
