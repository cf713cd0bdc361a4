"""What templates ask about the loops of a function, whatever the function computes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tilewright.space.knob import divisors

if TYPE_CHECKING:
    from tvm.ir import IRModule

__all__ = ["PARALLEL_WORK", "REDUCTION", "SHORTEST_VECTOR", "SPATIAL", "count_iterations", "lanes_in"]

#: Values of ``iter_type`` of an iterator of a block: ``DataPar`` and ``CommReduce`` of ``tvm.tirx.IterVar``.
SPATIAL, REDUCTION = 0, 2

#: Innermost iterations of element-wise code (1 to 2 µs) below which waking other threads costs more than it saves.
PARALLEL_WORK = 1 << 14

#: Elements of the shortest vector that is worth a loop. Shorter ones are no faster than what LLVM finds by itself.
SHORTEST_VECTOR = 4


def count_iterations(module: IRModule) -> int:
    """Innermost iterations of all blocks of the function together. A loop of unknown extent counts once."""
    from tvm.s_tir import Schedule

    schedule = Schedule(module)
    total = 0
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        extents = [schedule.get(loop).extent for loop in schedule.get_loops(block)]
        total += math.prod(int(e) for e in extents if isinstance(getattr(e, "value", e), int))
    return total


def lanes_in(extent: object, most: int) -> int:
    """The largest divisor of a loop's extent that is at most ``most``; 1 where that is too short to pay.

    Args:
        extent: TVM's expression, or a number; 1 is the answer for one that is not constant.
        most: elements of the longest vector.
    """
    count = getattr(extent, "value", extent)
    lanes = max(d for d in divisors(count) if d <= most) if isinstance(count, int) else 1
    return lanes if lanes >= SHORTEST_VECTOR else 1
