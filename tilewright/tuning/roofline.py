"""What the machine allows at best: the roofline (Williams et al., CACM 52(4), 2009), measured in 0.1 s."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from tilewright.space.space import DesignSpace

__all__ = ["Roofline", "measure_roofline"]

#: The measured speeds are what good code reaches; a little more may be possible.
_MARGIN = 1.05
#: Extent of the matrix product, and bytes that are copied: they stay in a core's second-level cache.
_EXTENT, _COPIED = 768, 1 << 17
#: Seconds for each of the two.
_SECONDS = 0.05


@dataclass(frozen=True)
class Roofline:
    """The limits of a machine.

    Attributes:
        flops: floating-point operations per second (float32) of all cores.
        bandwidth: bytes per second, read and written, of all cores out of their own caches.
    """

    flops: float
    bandwidth: float

    def possible(self, space: DesignSpace) -> float:
        """Seconds that no kernel for the task of ``space`` goes below: each byte of it has to be touched once."""
        seconds = space.task.flop / self.flops
        if space.has_loop_nest:
            nest = space.loop_nest(np.asarray(space.default(), dtype=np.int32)[None])
            if nest.touched.shape[2] > 0:
                seconds = max(seconds, float(nest.touched[0, :, 0].sum()) / self.bandwidth)
        return seconds


def measure_roofline(cores: int) -> Roofline:
    """The roofline of this machine, by a matrix product on all cores and a copy on one. Nothing else should run."""
    rng = np.random.default_rng(0)
    left, right = (rng.random((_EXTENT, _EXTENT), dtype=np.float32) for _ in range(2))
    product = np.empty_like(left)
    source = rng.random(_COPIED // 4, dtype=np.float32)
    copy = np.empty_like(source)
    with threadpool_limits(cores):
        multiplying = _fastest(lambda: np.matmul(left, right, out=product))
    copying = _fastest(lambda: np.copyto(copy, source))
    return Roofline(_MARGIN * 2.0 * _EXTENT**3 / multiplying, _MARGIN * cores * 2.0 * _COPIED / copying)


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls."""
    work()
    found: list[float] = []
    end = time.perf_counter() + _SECONDS
    while not found or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)
