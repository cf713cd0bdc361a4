"""Times variants of kernels while real steps run: each run of a part computes with other variants.

No step is lost to this, since a variant computes the same as the kernel that it replaces.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from tilewright.executable.program import PlanProgram, Variants

__all__ = ["Contest"]

#: How often each variant runs, at least. The lowest 0.2-quantile of its times counts.
_RUNS = 3
#: A variant that took so many times as long as the kernel that it stands for is not run again.
_HOPELESS = 1.5


class Contest:
    """Runs the variants of a part's kernels by turns, and keeps their times.

    Args:
        program: of the part, whose library holds the variants.
        variants: by the name of a kernel, the names of its variants, itself first.

    Attributes:
        program: of the part.
        over: set when each variant has run often enough, or the contest was stopped.
        times: by the names of kernels and variants, the seconds of each run: the sum over all calls of the kernel.
    """

    def __init__(self, program: PlanProgram, variants: Variants) -> None:
        self.program, self._variants = program, variants
        self.over = threading.Event()
        self.times = {kernel: {name: list[float]() for name in names} for kernel, names in variants.items()}
        self._places = {k: [i for i, name in enumerate(program.kernels) if name == k] for k in variants}
        self._turns = max(map(len, variants.values()), default=0)
        self._rng = np.random.default_rng(0)
        self._orders: dict[str, Sequence[int]] = {}
        self._turn = 0
        self._cancelled = False

    def run(self, addresses: Sequence[int]) -> list[float]:
        """Run the part on the caller's memory, with the next variants. Returns the seconds of each call.

        Raises:
            MeasureError: a kernel failed.
        """
        if self._turn % self._turns == 0:
            self._orders = {k: self._rng.permutation(len(names)).tolist() for k, names in self._variants.items()}
        drawn = {k: self._draw(k, order[self._turn % self._turns % len(order)]) for k, order in self._orders.items()}
        self.program.choose_kernels(drawn)
        taken = self.program.profile_in_place(addresses)
        if self._turn:  # the first run meets cold caches
            self._note(drawn, taken)
        self._turn += 1
        if self._turn > _RUNS * self._turns or self._cancelled:
            self.program.choose_kernels({kernel: kernel for kernel in self._variants})
            self.over.set()
        return taken

    def cancel(self) -> None:
        """Let the next run be the last one."""
        self._cancelled = True

    def _draw(self, kernel: str, number: int) -> str:
        """The name of a variant; the kernel's own if the variant was far slower, so that no step takes long."""
        name, times = self._variants[kernel][number], self.times[kernel]
        hopeless = min(times[name], default=0.0) > _HOPELESS * min(times[self._variants[kernel][0]], default=math.inf)
        return self._variants[kernel][0] if hopeless else name

    def _note(self, drawn: Mapping[str, str], taken: Sequence[float]) -> None:
        for kernel, name in drawn.items():
            self.times[kernel][name].append(sum(taken[place] for place in self._places[kernel]))
