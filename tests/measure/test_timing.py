"""How a kernel is timed, on a clock that the kernel itself turns."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from itertools import cycle

import pytest

from tilewright.measure.disturbance import Counter, Watch
from tilewright.measure.timing import SLOW_FACTOR, Timer


class Clock:
    """Time passes only in calls of ``kernel``, by what ``latencies`` says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = 0
        self.latencies: Iterator[float] = cycle([1e-3])

    def kernel(self, *arguments: object) -> None:
        self.calls += 1
        self.now += next(self.latencies)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tilewright.measure.timing.time.perf_counter", lambda: clock.now)
    return clock


def quiet() -> Watch:
    """Sees nothing."""
    return Watch((), lambda: 1.0, lambda: 0)


def run(clock: Clock, best: float = math.inf) -> tuple[float, ...]:
    timer = Timer(quiet())
    return timer.time(clock.kernel, (), timer.first_call(clock.kernel, ()), best).repeats


@pytest.mark.parametrize("latency", [1e-6, 20e-6, 1e-3, 30e-3, 1.0])
def test_repeats_are_the_latency_of_a_call(clock: Clock, latency: float) -> None:
    clock.latencies = cycle([latency])
    repeats = run(clock)
    assert repeats == pytest.approx([latency] * len(repeats))
    assert 2 <= len(repeats) <= 20


@pytest.mark.parametrize("latency", [20e-6, 200e-6, 2e-3, 30e-3])
def test_a_candidate_costs_less_than_a_tenth_of_a_second(clock: Clock, latency: float) -> None:
    clock.latencies = cycle([latency, latency * 1.3])  # never settles
    run(clock, best=latency / 1.2)
    assert clock.now < 0.14


@pytest.mark.parametrize("latency", [20e-6, 200e-6, 2e-3, 30e-3])
def test_one_that_may_be_the_best_costs_twice_that_at_most(clock: Clock, latency: float) -> None:
    clock.latencies = cycle([latency, latency * 1.3])
    run(clock)
    assert clock.now < 0.25


def test_a_short_kernel_is_timed_in_blocks_of_many_calls(clock: Clock) -> None:
    clock.latencies = cycle([20e-6])
    repeats = run(clock)
    assert clock.calls >= 100 * len(repeats)


def test_a_long_kernel_is_timed_call_by_call(clock: Clock) -> None:
    clock.latencies = cycle([0.5])
    assert len(run(clock)) == 2
    assert clock.calls == 3


@pytest.mark.parametrize("latency", [50e-6, 0.05])
def test_a_clearly_slower_candidate_is_dropped_after_its_first_run(clock: Clock, latency: float) -> None:
    clock.latencies = cycle([latency])
    assert len(run(clock, best=latency / SLOW_FACTOR * 0.99)) == 1
    assert len(run(clock, best=latency / SLOW_FACTOR * 1.01)) > 1


def test_a_slower_candidate_gets_fewer_blocks(clock: Clock) -> None:
    latencies = [5e-3, 5.6e-3, 5.2e-3, 6e-3, 5.4e-3]
    clock.latencies = cycle(latencies)
    full = len(run(clock, best=5e-3))
    clock.latencies = cycle(latencies)
    assert 1 < len(run(clock, best=3e-3)) < full


def test_a_steady_kernel_gets_fewer_blocks_than_a_restless_one(clock: Clock) -> None:
    clock.latencies = cycle([5e-3])
    steady = len(run(clock))
    clock.latencies = cycle([5e-3, 5.6e-3, 5.2e-3, 6e-3, 5.4e-3])
    assert steady < len(run(clock))


def test_a_slow_first_call_of_a_short_kernel_is_forgiven(clock: Clock) -> None:
    def latencies() -> Iterator[float]:
        yield 5e-3  # its threads had to be started
        while True:
            yield 50e-6

    clock.latencies = latencies()
    repeats = run(clock, best=40e-6)
    assert len(repeats) > 1
    assert max(repeats) == pytest.approx(50e-6)


def test_the_garbage_collector_rests_meanwhile_and_only_then(clock: Clock) -> None:
    seen: list[bool] = []

    def kernel() -> None:
        clock.kernel()
        seen.append(gc.isenabled())

    Timer(quiet()).time(kernel, (), 1e-3, math.inf)
    assert not any(seen)
    assert gc.isenabled()


def test_what_the_kernel_raises_comes_through(clock: Clock) -> None:
    def kernel() -> None:
        raise ValueError("no")

    function: Callable[[], None] = kernel
    with pytest.raises(ValueError, match="no"):
        Timer(quiet()).time(function, (), 1e-3, math.inf)
    assert gc.isenabled()


def test_a_slow_beginning_is_forgiven_for_some_milliseconds(clock: Clock) -> None:
    def latencies(slow: int) -> Iterator[float]:
        yield 50e-6
        yield from [150e-6] * slow  # its second thread has no core yet
        while True:
            yield 50e-6

    for slow, blocks in ((40, 5), (200, 1)):  # 6 ms, 30 ms
        clock.latencies = latencies(slow)
        timer = Timer(quiet())
        begin = clock.now
        assert len(timer.time(clock.kernel, (), timer.first_call(clock.kernel, ()), 49.5e-6).repeats) == blocks
        assert clock.now - begin < 0.03


def test_what_disturbed_is_told(clock: Clock) -> None:
    stolen = iter([0.0, 1.0])
    watch = Watch([Counter("stolen time", lambda: next(stolen), 0.1)], lambda: 1.0, lambda: clock.calls)
    timing = Timer(watch).time(clock.kernel, (), 1e-3, math.inf)
    assert timing.causes == ("stolen time", "preemption")
    assert Timer(quiet()).time(clock.kernel, (), 1e-3, math.inf).causes == ()


def test_cold_calls_have_a_flush_each_which_does_not_count(clock: Clock) -> None:
    flushed: list[int] = []

    def flush() -> None:
        flushed.append(clock.calls)
        clock.now += 1.0

    clock.latencies = cycle([50e-6])
    timer = Timer(quiet(), flush)
    first = timer.first_call(clock.kernel, ())
    repeats = timer.time(clock.kernel, (), first, math.inf).repeats
    assert repeats == pytest.approx([50e-6] * len(repeats))
    assert flushed == list(range(clock.calls))
    assert timer.turn(clock.kernel, (), 50e-6) == pytest.approx(50e-6)
    assert flushed == list(range(clock.calls))


def test_a_turn_in_a_race_is_a_warm_block(clock: Clock) -> None:
    latencies = iter([1e-3, *[50e-6] * 1000])  # the caches are full of another's data
    clock.latencies = latencies
    assert Timer(quiet()).turn(clock.kernel, (), 50e-6) == pytest.approx(50e-6)
    assert clock.calls == 41
