"""Cold caches: what pushes all other data out of the caches before a call.

Every core takes part, because the caches next to a core are its own. More bytes are touched than all caches hold,
because a cache keeps more old data than one that drops the least recently used first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tilewright.measure.arguments import Arguments, parameters_of
from tilewright.processor import cache_sizes
from tilewright.target import Target
from tilewright.tvm_compat import usable_cores

__all__ = ["flush_bytes", "kernel_flush", "streamed_bytes", "thread_flush"]

#: The bytes to touch, as a multiple of all caches' size.
_TIMES = 2
#: The bytes of weights that come from the last cache, as a multiple of the second caches' size: enough that none of
#: them is left there, and little of the last cache, of which others may use a part. At most half of what the last cache
#: has more than the second ones.
_TIMES_SHARED = 4
#: The most bytes to touch: a virtual machine on a server is told the size of caches of which it gets only a slice.
_MOST_BYTES = 256 << 20
#: The piece of work of a core, in float32 numbers: 256 KiB, so that even small caches make many pieces.
_PIECE = 1 << 16


def flush_bytes(l2: int, l3: int, cores: int) -> int:
    """The bytes to touch.

    Args:
        l2: bytes in the second cache of a core.
        l3: bytes in the last cache.
        cores: the number of cores.
    """
    return min(_TIMES * (l3 + cores * l2), _MOST_BYTES)


def streamed_bytes(target: Target) -> int:
    """The bytes of weights that calls go through before they meet the same ones again; 0: they have the same."""
    if target.caches == "shared":
        nearer = target.cores * target.l2
        return min(_TIMES_SHARED * nearer, (nearer + target.l3) // 2, _MOST_BYTES)
    return flush_bytes(target.l2, target.l3, target.cores) if target.caches == "streamed" else 0


def kernel_flush(target: Target) -> Callable[[], None]:
    """A kernel that empties the caches, on the threads that kernels run on.

    So these threads are awake, and not asleep, when the call begins that is timed.
    """
    import tvm
    from tvm import te

    # It reads one half of the bytes and writes the other.
    rows = -(-flush_bytes(target.l2, target.l3, target.cores) // (2 * 4 * _PIECE))
    source = te.placeholder((rows, _PIECE), name="source")
    result = te.compute((rows, _PIECE), lambda i, j: source[i, j] + 1.0, name="result")
    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": te.create_prim_func([source, result])}))
    row, column = schedule.get_loops(schedule.get_sblock("result"))
    schedule.parallel(row)
    schedule.vectorize(schedule.split(column, [None, target.lanes])[1])
    arguments = Arguments(parameters_of(schedule.mod["main"]), "flush")
    module = tvm.compile(schedule.mod, target=target.tvm).mod
    function = module["main"]

    def flush(module: object = module) -> None:  # the module owns the code of the function
        function(*arguments.tensors)

    return flush


def thread_flush() -> Callable[[], None]:
    """The same for processes without TVM: threads, each bound to a core of its own."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(usable_cores()))
    _, l2, l3 = cache_sizes()
    size = flush_bytes(l2, l3, len(cores)) // (4 * len(cores))
    arrays = [np.ones(size, dtype=np.float32) for _ in cores]
    threads = [ThreadPoolExecutor(1, initializer=_bind, initargs=(core,)) for core in cores]

    def flush() -> None:
        for done in [thread.submit(_touch, array) for thread, array in zip(threads, arrays, strict=True)]:
            done.result()

    return flush


def _bind(core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})  # the calling thread alone


def _touch(array: NDArray[np.float32]) -> None:
    np.negative(array, out=array)
