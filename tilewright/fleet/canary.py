"""The canary: a question with a known answer, by which a node shows that it computes right and that its clock runs.

A node compiles a small matrix product and runs it. The head knows the product, and that no machine is faster than its
own multiply-adds allow.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.fleet.machine import own_target
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.measure.limits import Limits
from tilewright.target import Target

__all__ = ["CanaryAnswer", "examine", "find_fault", "known_product"]

#: Extent of the product: its 2 * 96**3 operations take at least 5 us on any core, which a clock resolves.
_EXTENT = 96
#: The largest error of a right product, whose elements are sums of 96 products of numbers from -1 to 1.
_ERROR = 1e-3
#: Seconds that a node may take to import its compiler, compile and run: 4 on a quiet machine.
_SECONDS = 120.0


@dataclass(frozen=True)
class CanaryAnswer:
    """What a node computed.

    Attributes:
        product: ``(extent, extent)`` float32.
        seconds: that the fastest of some runs took.
    """

    product: NDArray[np.float32]
    seconds: float


def examine(cores: int) -> tuple[Target, CanaryAnswer]:
    """The target of this machine and its answer, from a process of its own, which imports the compiler.

    Args:
        cores: how many threads kernels run on.

    Raises:
        MeasureError: the process cannot be started, or ended without an answer.
    """
    with IsolatedCall(_answer, seconds=_SECONDS, environment={"TVM_NUM_THREADS": str(cores)}) as call:
        found = call.result()
    assert isinstance(found, tuple)
    return found


def find_fault(answer: CanaryAnswer, limits: Limits) -> str:
    """Why a node cannot be trusted, or empty.

    Args:
        answer: of the node.
        limits: of its kind of machine.
    """
    error = float(np.max(np.abs(answer.product - known_product())))
    if not error <= _ERROR:  # nan is wrong, too
        return f"it computes wrong results: the known matrix product differs by {error:.3g}"
    least = 2 * _EXTENT**3 / limits.peak / 2
    if answer.seconds < least:
        return (
            f"its times are impossible: the known matrix product took {1e6 * answer.seconds:.3g} us, where its kind of "
            f"machine needs at least {1e6 * least:.3g} us"
        )
    return ""


def known_product() -> NDArray[np.float64]:
    """What a node must compute, ``(extent, extent)``."""
    a, b = _operands()
    return a.astype(np.float64) @ b.astype(np.float64)


def _operands() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(25)
    shape = (2, _EXTENT, _EXTENT)
    a, b = rng.uniform(-1.0, 1.0, shape).astype(np.float32)
    return a, b


def _answer() -> tuple[Target, CanaryAnswer]:
    target = own_target()
    import tvm
    from tvm import te

    left = te.placeholder((_EXTENT, _EXTENT), name="A")
    right = te.placeholder((_EXTENT, _EXTENT), name="B")
    axis = te.reduce_axis((0, _EXTENT), name="k")
    product = te.compute((_EXTENT, _EXTENT), lambda i, j: te.sum(left[i, axis] * right[axis, j], axis=axis), name="C")
    function = tvm.compile(te.create_prim_func([left, right, product]), target=target.tvm)["main"]
    a, b = (tvm.runtime.tensor(operand) for operand in _operands())
    c = tvm.runtime.tensor(np.zeros((_EXTENT, _EXTENT), dtype=np.float32))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        function(a, b, c)
        times.append(time.perf_counter() - began)
    return target, CanaryAnswer(c.numpy(), min(times))
