"""Variants of kernels are timed in real steps, none of which takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

pytest.importorskip("torch")

from tilewright.training.contest import Contest

#: Seconds of kernels and of their variants. A kernel takes a tenth of the part, and other kernels half of it.
SECONDS = (
    {"rest": 5.0} | {f"k{i}": 1.0 for i in range(5)} | {f"k{i}_{j}": 0.8 + 0.1 * j for i in range(5) for j in range(3)}
)
VARIANTS = {f"k{i}": [f"k{i}", *(f"k{i}_{j}" for j in range(3))] for i in range(5)}


class Program:
    """Kernels that take a known time; the second call of each kernel takes as long as the first."""

    kernels = ("rest", *VARIANTS)

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds, self.chosen = seconds, dict[str, str]()
        self.runs: list[dict[str, str]] = []

    def choose_kernels(self, chosen: Mapping[str, str]) -> None:
        """Run these from now on."""
        self.chosen |= chosen

    def profile_in_place(self, addresses: Sequence[int]) -> list[float]:
        """The seconds of each kernel."""
        self.runs.append(dict(self.chosen))
        return [self.seconds[self.chosen.get(kernel, kernel)] for kernel in self.kernels]


def hold(seconds: Mapping[str, float], expected: Mapping[str, float] | None = None) -> tuple[Contest, Program]:
    """A contest that is over, and its program."""
    program: Any = Program(seconds)
    contest = Contest(program, VARIANTS, expected)
    total = 0
    while not contest.over.is_set():
        contest.run([])
        total += 1
        assert total < 100
    return contest, program


def test_each_variant_is_timed_three_times() -> None:
    contest, program = hold(SECONDS)
    assert contest.times == {k: {name: [SECONDS[name]] * 3 for name in names} for k, names in VARIANTS.items()}
    assert program.chosen == {kernel: kernel for kernel in VARIANTS}
    assert program.runs[0] == {kernel: kernel for kernel in VARIANTS}


def test_slow_variants_make_one_step_long_at_most() -> None:
    slow = SECONDS | {name: 10.0 for name in SECONDS if "_" in name}
    contest, program = hold(slow)
    spans = [sum(slow[run[kernel]] for kernel in VARIANTS) for run in program.runs]
    assert max(spans) == 14.0  # a single one at a time
    assert spans.count(14.0) == 15  # and each once
    assert all(times[kernel] == [1.0] * 12 for kernel, times in contest.times.items())


def test_variants_of_which_little_is_feared_run_together() -> None:
    expected = {name: 1.5 for names in VARIANTS.values() for name in names[1:]}
    contest, program = hold(SECONDS | dict.fromkeys(expected, 1.5), expected)
    changed = [sum(run[kernel] != kernel for kernel in VARIANTS) for run in program.runs]
    assert max(changed) == 5
    assert len(changed) < len(hold(SECONDS)[1].runs)
    assert all(sum(map(len, times.values())) == 12 for times in contest.times.values())


def test_a_contest_can_be_cancelled() -> None:
    program: Any = Program(SECONDS)
    contest = Contest(program, VARIANTS)
    contest.run([])
    contest.cancel()
    contest.run([])
    assert contest.over.is_set()
    assert program.chosen == {kernel: kernel for kernel in VARIANTS}


def test_several_threads_time_each_variant_by_itself() -> None:
    class Slow(Program):
        """Kernels that are chosen long before they have run."""

        def profile_in_place(self, addresses: Sequence[int]) -> list[float]:
            """The seconds of each kernel."""
            time.sleep(0.002)
            return super().profile_in_place(addresses)

    program: Any = Slow(SECONDS)
    contest = Contest(program, VARIANTS)

    def run() -> None:
        while not contest.over.is_set():
            contest.run([])

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert contest.times == {k: {name: [SECONDS[name]] * 3 for name in names} for k, names in VARIANTS.items()}
    assert program.chosen == {kernel: kernel for kernel in VARIANTS}
