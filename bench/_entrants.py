"""The entrants of ``bench.kernels``: a kernel, and the matrix products of other libraries and of Tilewright.

They are in a module of their own, because each runs in another process, which imports it by its name. An entrant takes
no inputs and makes its own data.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

from tilewright.errors import CompilerError, MeasureError
from tilewright.measure.limits_library import load_limits
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tensor import Array, TensorSpec

#: Side of the square matrices: three of them are 50 MB, and 17 GFLOP drown every overhead.
SIDE = 2048
PRODUCT_FLOP = 2.0 * SIDE**3


class Calls:
    """A function without arguments as something that can be raced."""

    inputs: Sequence[TensorSpec] = ()

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def __call__(self, *_: Array) -> list[Array]:
        self._call()
        return []

    def time(self, _: Sequence[Array], runs: int) -> list[float]:
        call, seconds = self._call, []
        for _run in range(runs):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
        return seconds


def numpy_product(threads: int) -> Calls:
    """NumPy's float32 matrix product."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)  # of the BLAS that NumPy has just loaded, for good
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    return Calls(lambda: np.matmul(a, b, out=out))


def torch_product(threads: int) -> Calls:
    """PyTorch's float32 matrix product."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    a, b = (torch.randn(SIDE, SIDE) for _ in range(2))
    out = torch.empty_like(a)
    return Calls(lambda: torch.mm(a, b, out=out))


class OwnProduct(Calls):
    """Tilewright's own matrix product on packed operands (:mod:`tilewright.measure.limits`).

    Args:
        threads: how many threads it runs on.
        flop: about how many operations it has.

    Raises:
        MeasureError: there is no C compiler, or the library cannot be loaded.
    """

    def __init__(self, threads: int, flop: float = PRODUCT_FLOP) -> None:
        self._threads, self._flop = threads, flop
        try:
            self._library = load_limits()
        except (CompilerError, OSError, AttributeError) as exc:
            raise MeasureError(f"Tilewright's matrix product cannot be measured: {exc}") from exc
        super().__init__(lambda: self.time((), 1))

    def time(self, _: Sequence[Array], runs: int) -> list[float]:
        widest = int(self._library.tilewright_limits_variants()).bit_length() - 1
        seconds = (ctypes.c_double * runs)()
        times = self._library.tilewright_limits_product_times
        done = float(times(widest, self._threads, self._flop, runs, seconds))
        return [self._flop / done * float(second) for second in seconds]


def own_product(threads: int) -> OwnProduct:
    """Tilewright's own float32 matrix product, with as many operations as the others."""
    return OwnProduct(threads)


def kernel(task: Task, target: Target, config: Sequence[int]) -> Calls:
    """A task's kernel with one config, called on the same data again and again as in tuning."""
    import numpy as np
    import tvm

    from tilewright.measure.arguments import Arguments, parameters_of
    from tilewright.ops.registry import make_space

    module = make_space(task, target).schedule(np.asarray(config, dtype=np.int32)).mod
    built = tvm.compile(module, target=target.tvm).mod
    arguments = Arguments(parameters_of(module["main"]), task.key)
    function, tensors = built["main"], arguments.tensors

    def call() -> None:
        function(*tensors)

    call.keep = built, arguments  # type: ignore[attr-defined]  # whose memory the function and its tensors use
    return Calls(call)
