"""Times variants of kernels while real steps run: each run of a part computes with other variants.

No step is lost to this, since a variant computes the same as the kernel that it replaces. A contest begins with a run
of the kernels themselves. Then each variant runs once. A run tries as many of them as do not make the step long. After
that, those that may win are timed by turns.
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
#: A variant that took so many times as long as the kernel that it stands for is not run again. In its first run it
#: meets cold caches, and may take longer.
_HOPELESS, _HOPELESS_FIRST = 1.2, 1.5
#: How many times as long as its kernel a variant is expected to take in its first run if nothing is known. (A choice.)
_UNKNOWN = 10.0
#: Variants run for the first time together if they are expected to make the part longer by at most this share of its
#: time; otherwise one runs alone. No step should take more than 1.5 times as long as the others.
_MOST_LONGER = 0.3


class Contest:
    """Runs the variants of a part's kernels by turns, and keeps their times.

    Args:
        program: of the part, whose library holds the variants.
        variants: by the name of a kernel, the names of its variants, itself first.
        expected: by the name of a variant, how many times as long as its kernel it takes, roughly.

    Attributes:
        program: of the part.
        over: set when each variant has run often enough, or the contest was stopped.
        times: by the names of kernels and variants, the seconds of each run: the sum over all calls of the kernel.
    """

    def __init__(self, program: PlanProgram, variants: Variants, expected: Mapping[str, float] | None = None) -> None:
        self.program, self._variants, self._expected = program, variants, expected or {}
        self.over = threading.Event()
        self.times = {kernel: {name: list[float]() for name in names} for kernel, names in variants.items()}
        self._places = {k: [i for i, name in enumerate(program.kernels) if name == k] for k in variants}
        self._turns = max(map(len, variants.values()), default=0)
        self._rng = np.random.default_rng(0)
        # Held while a part runs. The lock of the program's memory is taken under it.
        self._running = threading.Lock()
        self._orders: dict[str, Sequence[int]] = {}
        self._turn = 0
        self._cancelled = False
        self._usual: dict[str, float] = {}
        self._part = 0.0
        self._untried = [(kernel, name) for kernel, names in variants.items() for name in names[1:]]
        self._hopeless: set[str] = set()

    def run(self, addresses: Sequence[int]) -> list[float]:
        """Run the part on the caller's memory, with the next variants. Returns the seconds of each call.

        Several threads may train: each waits for the run of another one, since it would exchange its kernels.

        Raises:
            MeasureError: a kernel failed.
        """
        with self._running:
            return self.program.profile_in_place(addresses) if self.over.is_set() else self._run(addresses)

    def _run(self, addresses: Sequence[int]) -> list[float]:
        """A run with the next variants. The lock is held."""
        own = {kernel: kernel for kernel in self._variants}
        tried = self._pick_untried()
        drawn = own | tried if tried or not self._usual else self._draw_all()
        self.program.choose_kernels(drawn)
        taken = self.program.profile_in_place(addresses)
        seconds = {kernel: sum(taken[place] for place in self._places[kernel]) for kernel in self._variants}
        if not self._usual:
            self._usual, self._part = seconds, sum(taken)
        elif tried:
            for kernel, name in tried.items():
                if seconds[kernel] > _HOPELESS_FIRST * self._usual[kernel]:
                    self._hopeless.add(name)
                    self.times[kernel][name].append(seconds[kernel])
        else:
            for kernel, name in drawn.items():
                self.times[kernel][name].append(seconds[kernel])
            self._turn += 1
        if self._turn >= _RUNS * self._turns or self._cancelled:
            self.program.choose_kernels(own)
            self.over.set()
        return taken

    @property
    def risky(self) -> bool:
        """Whether the next run may take longer than the others, since variants run for the first time in it."""
        return bool(self._untried)

    def cancel(self) -> None:
        """Let the next run be the last one."""
        self._cancelled = True

    def _pick_untried(self) -> dict[str, str]:
        """Variants that run for the first time now, by their kernels; none before the kernels themselves have run."""
        picked: dict[str, str] = {}
        longer = 0.0
        for kernel, name in self._untried.copy() if self._usual else ():
            more = max(0.0, self._expected.get(name, _UNKNOWN) - 1.0) * self._usual[kernel]
            if kernel not in picked and (not picked or longer + more <= _MOST_LONGER * self._part):
                picked[kernel] = name
                longer += more
                self._untried.remove((kernel, name))
        return picked

    def _draw_all(self) -> dict[str, str]:
        """For each kernel the variant whose turn it is."""
        if self._turn % self._turns == 0:
            self._orders = {k: self._rng.permutation(len(names)).tolist() for k, names in self._variants.items()}
        place = self._turn % self._turns
        return {kernel: self._draw(kernel, order[place % len(order)]) for kernel, order in self._orders.items()}

    def _draw(self, kernel: str, number: int) -> str:
        """The name of a variant; the kernel's own if the variant was far slower, so that no step takes long."""
        name, times = self._variants[kernel][number], self.times[kernel]
        own = self._variants[kernel][0]
        slow = min(times[name], default=0.0) > _HOPELESS * min(times[own], default=math.inf)
        return own if slow or name in self._hopeless else name
