"""What the machine allows at best: the roofline (Williams et al., CACM 52(4), 2009), measured in about 0.3 s.

Two kinds of figures serve two purposes. *Bounds* hold for every kernel, and nothing is expected beyond them: the
multiply-adds that registers allow, and the bytes that the caches deliver to the simplest loops. *Goals* are what good
code reaches: a matrix product, by which the time of a whole network is estimated (``reachable``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilewright.jsonable import JsonObject
from tilewright.measure.limits import Limits, measure_limits
from tilewright.space.space import DesignSpace

__all__ = ["Roofline", "measure_roofline", "touched_bytes"]

#: A measurement beside a noisy neighbour, or at a lower clock, falls short of the machine; bounds are so much higher.
_MARGIN = 1.05


@dataclass(frozen=True)
class Roofline:
    """The limits of a machine.

    Attributes:
        flops: floating-point operations per second (float32) of all cores, which no kernel exceeds.
        bandwidth: bytes per second, read and written, of all cores out of their innermost caches, which none exceeds.
        limits: what was measured, and says where the others come from; None: they were given.
        byte_flops: operations per second on products of bytes, which no kernel exceeds; None: four times ``flops``.
        bf16_flops: the same on products of bfloat16 numbers; None: twice ``flops``.
    """

    flops: float
    bandwidth: float
    limits: Limits | None = None
    byte_flops: float | None = None
    bf16_flops: float | None = None

    @classmethod
    def of(cls, limits: Limits) -> Roofline:
        """The bounds by what was measured, with a margin of 5 %."""
        fastest = max(limits.innermost_bandwidth or 0.0, limits.cache_bandwidth or 0.0)
        dots = [None if rate is None else _MARGIN * rate for rate in (limits.dot, limits.bf16_dot)]
        return cls(_MARGIN * limits.peak, _MARGIN * fastest, limits, *dots)

    @property
    def reachable(self) -> float:
        """Operations per second that good code reaches: those of a matrix product, where one was measured."""
        return self.flops if self.limits is None else self.limits.reachable

    def possible(self, space: DesignSpace) -> float:
        """Seconds that no kernel for the task of ``space`` goes below: each byte of it has to be touched once.

        What the innermost caches cannot hold between two runs comes out of the next ones.
        """
        products: int = getattr(space, "products", 1)  # of a space without a closed form
        halves = False
        if space.has_loop_nest:
            nest = space.loop_nest(np.asarray(space.default(), dtype=np.int32)[None])
            products, halves = nest.products, nest.halves
        return self.bound(space.task.flop, touched_bytes(space), products, halves)

    def bound(self, flop: float, touched: float, products: int = 1, halves: bool = False) -> float:
        """Seconds that no kernel goes below.

        Args:
            flop: its operations.
            touched: bytes that it reads or writes, each once; 0: not known.
            products: that it adds up at a time: of bytes, int16 or bfloat16 numbers; 1: it computes in float32.
            halves: whether they are of bfloat16 numbers.
        """
        known = self.bf16_flops if halves else self.byte_flops
        flops = self.flops if products <= 1 else known or products * self.flops
        seconds = max(flop / flops, touched / self.bandwidth)
        if self.limits is not None and self.limits.cache_bandwidth is not None:
            outer = touched - self.limits.innermost_bytes
            seconds = max(seconds, outer / (_MARGIN * self.limits.cache_bandwidth))
        return seconds

    def describe(self) -> JsonObject:
        """For reports: the bounds, and what was measured (:class:`tilewright.measure.limits.Limits`)."""
        measured = {} if self.limits is None else self.limits.describe()
        return {"flops_bound": self.flops, "bandwidth_bound": self.bandwidth, **measured}


def touched_bytes(space: DesignSpace) -> float:
    """Bytes that a call of the task of ``space`` reads or writes, each once; 0: not known."""
    if not space.has_loop_nest:
        return 0.0
    nest = space.loop_nest(np.asarray(space.default(), dtype=np.int32)[None])
    return float(nest.touched[0, :, 0].sum()) if nest.touched.shape[2] > 0 else 0.0


def measure_roofline(cores: int, features: Sequence[str] | None = None) -> Roofline:
    """The roofline of this machine, measured in a process of its own. Nothing else should run.

    Args:
        cores: how many threads run.
        features: of the target that is tuned for; None: all that this machine has.

    Raises:
        MeasureError: no process can be started.
    """
    return Roofline.of(measure_limits(cores, features))
