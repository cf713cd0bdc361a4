"""The pool on candidates that do everything that candidates do."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.measure.spaces import Deed, FaultySpace, broken_factory, config, make_faulty, make_task, pids_of
from tests.processes import started, wait_until
from tests.targets import host_target, require
from tilewright.errors import MeasureError
from tilewright.measure.interleaved import winner
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.pool import LocalPool
from tilewright.measure.process import Lost
from tilewright.measure.protocol import Reply, Timed
from tilewright.measure.runner import Racer
from tilewright.measure.worker_process import WorkerProcess
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.task import Task

LONG = 600.0


@pytest.fixture(scope="module")
def target() -> Target:
    require(host_target())
    return host_target()


@pytest.fixture(scope="module")
def shared(target: Target) -> Iterator[LocalPool]:
    with LocalPool(target, workers=2, factory=make_faulty, build_timeout=2.5, run_timeout=2.5) as pool:
        yield pool


@pytest.fixture(scope="module")
def only(target: Target) -> Iterator[LocalPool]:
    with LocalPool(target, workers=1, factory=make_faulty) as pool:
        yield pool


@pytest.fixture
def single(only: LocalPool) -> Iterator[LocalPool]:
    """A pool of one worker, where the order of events is known."""
    yield only
    only.on_measurement = None


def measure(
    pool: LocalPool, *deeds: Deed, best: float = math.inf, seconds: float = 60.0, start: Deed = Deed.FAST
) -> list[Measurement]:
    configs = np.asarray([config(deed, which) for which, deed in enumerate(deeds)], dtype=np.int32)
    return pool.measure(FaultySpace(make_task(start), start), configs.reshape(-1, 2), best, time.monotonic() + seconds)


def outcomes(measurements: list[Measurement]) -> list[Outcome]:
    return [measurement.outcome for measurement in measurements]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(pid: int) -> None:
    """Kill a worker and wait until all of its threads are dead, which takes milliseconds."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


EXPECTED = {
    Deed.FAST: (Outcome.OK, ""),
    Deed.SLOW: (Outcome.OK, ""),
    Deed.BAD_SCHEDULE: (Outcome.INVALID, "this config has no schedule"),
    Deed.BAD_COMPILE: (Outcome.BUILD_FAILED, "Error"),
    Deed.HANG_IN_BUILD: (Outcome.BUILD_TIMED_OUT, "the build took longer than 2.5 s"),
    Deed.HANG_IN_RUN: (Outcome.RUN_TIMED_OUT, "the run took longer than"),
    Deed.CRASH_IN_BUILD: (Outcome.BUILD_FAILED, "the build ended its process: SIGSEGV"),
    Deed.CRASH_IN_RUN: (Outcome.RUN_CRASHED, "the run ended its process: SIGSEGV"),
    Deed.RAISE_IN_RUN: (Outcome.RUN_CRASHED, "does not like its arguments"),
    Deed.WRONG: (Outcome.WRONG_RESULT, "largest error 0.25"),
    Deed.NAN: (Outcome.WRONG_RESULT, "NaN"),
    Deed.PARTIAL: (Outcome.WRONG_RESULT, "NaN"),
    Deed.SLEEPY_BUILD: (Outcome.OK, ""),
    Deed.OTHER_SHAPE: (Outcome.WRONG_RESULT, "arguments"),
    Deed.REPORT: (Outcome.INVALID, "2000 spins"),
    Deed.TALK: (Outcome.RUN_CRASHED, "SIGABRT: hello from the kernel terminate called: out of ideas"),
}


def test_each_fault_costs_its_candidate_and_no_other(shared: LocalPool, target: Target) -> None:
    deeds = list(Deed)
    seen: list[Measurement] = []
    shared.on_measurement = seen.append
    try:
        measurements = measure(shared, *deeds)
    finally:
        shared.on_measurement = None
    assert [m.config for m in measurements] == [config(deed, which) for which, deed in enumerate(deeds)]
    for deed, found in zip(deeds, measurements, strict=True):
        outcome, message = EXPECTED[deed]
        assert found.outcome is outcome, (deed.name, found)
        assert message in found.message, (deed.name, found)
        assert found.ok == bool(found.repeats)
        assert found.ok != bool(found.message)
        assert found.ok == math.isfinite(found.seconds)
        assert (found.task, found.target, found.template) == ("faulty-FAST", target.key, "faulty/1")
        assert found.time > 0
        assert found.elapsed > 0
    assert sorted(seen, key=lambda m: m.config[1]) == measurements
    assert outcomes(measure(shared, *[Deed.FAST] * 5)) == [Outcome.OK] * 5
    deaths = [deed for deed in deeds if EXPECTED[deed][1].startswith(("the build", "the run", "SIGABRT"))]
    assert shared.statistics.replaced == len(deaths)


def test_candidates_come_with_what_the_default_took_at_that_moment(single: LocalPool) -> None:
    fast, slow = measure(single, Deed.FAST, Deed.SLOW)
    assert fast.anchor == slow.anchor > 0.0
    assert fast.anchor < 10 * fast.seconds < slow.seconds
    # Later, too, when the default is no candidate, and in a race; not where there is no default that works.
    (again,) = measure(single, Deed.SLOW)
    assert 0.0 < again.anchor < again.seconds / 5
    assert all(0.0 < m.anchor < again.seconds / 5 for m in race(single, Deed.SLOW, Deed.SLOW))
    assert [m.anchor for m in measure(single, Deed.FAST, start=Deed.RAISE_IN_RUN)] == [0.0]


def test_statistics_tell_where_time_and_memory_went(shared: LocalPool) -> None:
    before = shared.statistics.measured
    measure(shared, Deed.FAST, Deed.BAD_SCHEDULE)
    assert shared.statistics.measured == before + 2
    assert shared.statistics.building > 0
    assert shared.statistics.timing > 0
    assert 100 << 20 < shared.statistics.peak_rss < 700 << 20


def test_a_slow_candidate_is_dropped_after_its_first_run(shared: LocalPool) -> None:
    [found] = measure(shared, Deed.SLOW, best=1e-9)
    assert found.ok
    assert len(found.repeats) == 1
    [found] = measure(shared, Deed.SLOW)
    assert len(found.repeats) > 1


Answer = Callable[[Timed], Timed]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    """What becomes of the latencies that a worker replies with, in order; afterwards nothing disturbs."""
    waiting: list[Answer] = []
    receive = WorkerProcess.receive

    def received(self: WorkerProcess) -> Reply | Lost:
        reply = receive(self)
        if not isinstance(reply, Timed):
            return reply
        return waiting.pop(0)(reply) if waiting else replace(reply, causes=())

    monkeypatch.setattr(WorkerProcess, "receive", received)
    return waiting


def disturbed(seconds: float) -> Answer:
    return lambda reply: Timed((seconds,) * 3, ("stolen time",))


def test_a_disturbed_candidate_has_another_turn_after_the_others(single: LocalPool, answers: list[Answer]) -> None:
    before = replace(single.statistics, causes=single.statistics.causes.copy())
    seen: list[Measurement] = []
    single.on_measurement = seen.append
    answers.append(disturbed(5.0))
    found = measure(single, Deed.FAST, Deed.FAST, Deed.FAST)
    assert [m.config[1] for m in seen] == [1, 2, 0]
    assert [m.config[1] for m in found] == [0, 1, 2]
    assert outcomes(found) == [Outcome.OK] * 3
    assert found[0].seconds < 1.0  # what was disturbed does not count
    after = single.statistics
    assert after.disturbed - before.disturbed == after.remeasured - before.remeasured == 1
    assert (after.causes - before.causes)["stolen time"] == 1
    assert after.measured - before.measured == 3
    assert set(after.disturbance()) == {"disturbed", "remeasured", "causes"}


def test_what_is_always_disturbed_counts_with_its_fastest_turn(single: LocalPool, answers: list[Answer]) -> None:
    answers += [disturbed(seconds) for seconds in (5.0, 3.0, 4.0)]
    [found] = measure(single, Deed.FAST)
    assert found.ok
    assert found.repeats == (3.0,) * 3
    assert answers == []


def test_another_turn_that_is_dropped_at_once_does_not_replace_a_better_one(
    single: LocalPool, answers: list[Answer]
) -> None:
    answers += [disturbed(3.0), lambda reply: Timed((7.0,), ())]
    [found] = measure(single, Deed.FAST)
    assert found.repeats == (3.0,) * 3
    assert answers == []


def test_a_disturbed_candidate_that_cannot_win_has_no_other_turn(single: LocalPool, answers: list[Answer]) -> None:
    answers.append(disturbed(5.0))
    [found] = measure(single, Deed.FAST, best=1.0)
    assert found.seconds == 5.0


def test_only_a_share_of_the_candidates_has_another_turn(single: LocalPool, answers: list[Answer]) -> None:
    before = single.statistics.remeasured
    answers += [disturbed(5.0)] * 200
    found = measure(single, *[Deed.FAST] * 24)
    assert outcomes(found) == [Outcome.OK] * 24
    assert single.statistics.remeasured - before <= 4 + 0.2 * single.statistics.measured


def test_a_worker_killed_before_another_turn_loses_nothing(single: LocalPool, answers: list[Answer]) -> None:
    def killed(reply: Timed) -> Timed:
        kill(pids_of(single)[0])
        return Timed((5.0,) * 3, ("preemption",))

    answers.append(killed)
    [found] = measure(single, Deed.FAST)
    assert found.ok  # the worker was killed while it had nothing to do: what is known counts
    assert found.seconds == 5.0


def race(pool: LocalPool, *deeds: Deed, seconds: float = 60.0) -> list[Measurement]:
    configs = np.asarray([config(deed, which) for which, deed in enumerate(deeds)], dtype=np.int32)
    return pool.race(FaultySpace(make_task()), configs.reshape(-1, 2), time.monotonic() + seconds)


def test_a_race_times_all_by_turns(single: LocalPool) -> None:
    assert isinstance(single, Racer)
    seen: list[Measurement] = []
    single.on_measurement = seen.append
    found = race(single, Deed.FAST, Deed.SLOW, Deed.FAST)
    assert seen == found
    assert outcomes(found) == [Outcome.OK] * 3
    assert [m.config for m in found] == [config(Deed.FAST, 0), config(Deed.SLOW, 1), config(Deed.FAST, 2)]
    rounds = [len(m.repeats) for m in found]
    assert min(rounds) >= 7
    assert rounds[1] == min(rounds)
    assert winner([m.repeats for m in found]) in (0, 2)
    assert all(m.elapsed > 0 for m in found)


def test_a_race_with_failures_is_one_of_the_others(single: LocalPool) -> None:
    found = race(single, Deed.FAST, Deed.BAD_SCHEDULE, Deed.WRONG, Deed.FAST)
    assert outcomes(found) == [Outcome.OK, Outcome.INVALID, Outcome.WRONG_RESULT, Outcome.OK]
    assert len(found[0].repeats) >= 7


@pytest.mark.parametrize("deed", [Deed.CRASH_IN_RUN, Deed.RAISE_IN_RUN])
def test_a_racer_that_fails_costs_no_other(single: LocalPool, deed: Deed) -> None:
    assert outcomes(race(single, Deed.FAST, deed, Deed.FAST)) == [Outcome.OK, Outcome.RUN_CRASHED, Outcome.OK]


def test_a_race_without_time_or_rivals(single: LocalPool) -> None:
    assert race(single) == []
    assert race(single, Deed.FAST, Deed.FAST, seconds=-1.0) == []
    assert outcomes(race(single, Deed.FAST)) == [Outcome.OK]


def test_no_configs_and_no_time(shared: LocalPool) -> None:
    assert measure(shared) == []
    assert measure(shared, Deed.FAST, Deed.FAST, seconds=-1.0) == []


def test_workers_say_nothing_to_the_terminal(shared: LocalPool, capfd: pytest.CaptureFixture[str]) -> None:
    measure(shared, Deed.TALK)
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize("start", [Deed.BAD_SCHEDULE, Deed.BAD_COMPILE, Deed.RAISE_IN_RUN, Deed.CRASH_IN_RUN])
def test_a_default_that_fails_leaves_the_first_candidate_as_reference(single: LocalPool, start: Deed) -> None:
    found = measure(single, Deed.FAST, Deed.WRONG, Deed.FAST, start=start)
    assert outcomes(found) == [Outcome.OK, Outcome.WRONG_RESULT, Outcome.OK]
    assert outcomes(measure(single, Deed.WRONG)) == [Outcome.WRONG_RESULT]  # and the next task's default is one again


def test_a_default_that_hangs_leaves_the_first_candidate_as_reference(target: Target) -> None:
    with LocalPool(target, workers=1, factory=make_faulty, build_timeout=1.0, run_timeout=1.0) as pool:
        found = measure(pool, Deed.FAST, Deed.WRONG, start=Deed.HANG_IN_BUILD)
    assert outcomes(found) == [Outcome.OK, Outcome.WRONG_RESULT]


def test_workers_compare_with_the_output_of_one_default(target: Target) -> None:
    with LocalPool(target, workers=2, factory=make_faulty) as pool:
        wrong = measure(pool, *[Deed.FAST] * 6, start=Deed.WRONG)
        assert [m.outcome for m in wrong] == [Outcome.WRONG_RESULT] * 6
        # The one that knows may die before it has told.
        found = measure(pool, Deed.CRASH_IN_BUILD, *[Deed.FAST] * 4, Deed.WRONG)
        assert [m.outcome for m in found] == [Outcome.BUILD_FAILED, *[Outcome.OK] * 4, Outcome.WRONG_RESULT]


def test_tasks_may_take_turns(single: LocalPool) -> None:
    for start in (Deed.FAST, Deed.SLOW, Deed.FAST, Deed.SLOW):
        found = measure(single, Deed.FAST, Deed.WRONG, start=start)
        assert outcomes(found) == [Outcome.OK, Outcome.WRONG_RESULT]


def test_what_a_dead_worker_had_built_is_built_again(single: LocalPool) -> None:
    found = measure(single, Deed.FAST, Deed.CRASH_IN_RUN, Deed.FAST, Deed.CRASH_IN_RUN, Deed.FAST)
    ok, crashed = Outcome.OK, Outcome.RUN_CRASHED
    assert outcomes(found) == [ok, crashed, ok, crashed, ok]


def test_a_worker_killed_while_building_costs_one_candidate(single: LocalPool) -> None:
    measure(single, Deed.FAST)
    killer = threading.Timer(0.5, lambda: os.kill(pids_of(single)[0], signal.SIGKILL))
    killer.start()
    found = measure(single, Deed.FAST, Deed.SLEEPY_BUILD, Deed.FAST)
    killer.join()
    assert outcomes(found) == [Outcome.OK, Outcome.BUILD_FAILED, Outcome.OK]
    assert "SIGKILL" in found[1].message


def test_a_worker_killed_while_it_has_nothing_to_do_costs_none(single: LocalPool) -> None:
    measure(single, Deed.FAST)
    pids = pids_of(single)
    for pid in pids:
        kill(pid)
    assert outcomes(measure(single, Deed.FAST, Deed.FAST)) == [Outcome.OK] * 2


def test_workers_killed_after_every_measurement_lose_nothing(single: LocalPool) -> None:
    single.on_measurement = lambda _: kill(pids_of(single)[0])
    assert outcomes(measure(single, *[Deed.FAST] * 3)) == [Outcome.OK] * 3


def test_the_deadline_ends_a_batch_with_what_is_finished(single: LocalPool) -> None:
    measure(single, Deed.FAST)
    found = measure(single, *[Deed.SLEEPY_BUILD] * 40, seconds=2.5)
    assert len(found) < 3
    assert set(outcomes(found)) <= {Outcome.OK}
    assert outcomes(measure(single, Deed.FAST)) == [Outcome.OK]


@pytest.mark.parametrize("deed", [Deed.HANG_IN_BUILD, Deed.HANG_IN_RUN])
def test_the_deadline_cuts_off_what_hangs(target: Target, deed: Deed) -> None:
    with LocalPool(target, workers=1, factory=make_faulty, build_timeout=LONG, run_timeout=LONG) as pool:
        [first] = measure(pool, Deed.FAST)
        assert first.ok
        assert measure(pool, deed, seconds=1.0) == []  # the deadline says nothing about the candidate


def test_an_interrupt_loses_no_measurement_and_the_pool_goes_on(single: LocalPool, answers: list[Answer]) -> None:
    assert answers == []  # nothing is disturbed, which might come last
    seen: list[Measurement] = []

    def interrupt(measurement: Measurement) -> None:
        seen.append(measurement)
        if len(seen) == 2:
            raise KeyboardInterrupt

    single.on_measurement = interrupt
    with pytest.raises(KeyboardInterrupt):
        measure(single, *[Deed.FAST] * 4)
    assert outcomes(seen) == [Outcome.OK] * 2
    assert outcomes(measure(single, Deed.FAST, Deed.WRONG)) == [Outcome.OK, Outcome.WRONG_RESULT]


def test_an_interrupt_while_waiting(single: LocalPool) -> None:
    measure(single, Deed.FAST)
    timer = threading.Timer(0.7, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        measure(single, Deed.HANG_IN_BUILD)
    timer.join()
    assert outcomes(measure(single, Deed.FAST)) == [Outcome.OK]


def test_a_factory_that_fails_makes_configs_invalid(target: Target) -> None:
    with LocalPool(target, workers=1, factory=broken_factory) as pool:
        found = measure(pool, Deed.FAST, Deed.FAST)
    assert outcomes(found) == [Outcome.INVALID] * 2
    assert "no design space serves" in found[0].message


def test_a_factory_that_kills_the_worker_makes_configs_invalid(target: Target) -> None:
    with LocalPool(target, workers=1, factory=_suicidal) as pool:
        found = measure(pool, Deed.FAST, Deed.FAST)
    assert outcomes(found) == [Outcome.INVALID] * 2
    assert "SIGKILL" in found[0].message


def _suicidal(task: Task, target: Target) -> DesignSpace:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_factory_without_a_name_is_refused(target: Target) -> None:
    def local(task: Task, target: Target) -> DesignSpace:
        return make_faulty(task, target)

    with pytest.raises(MeasureError, match="importable module"):
        LocalPool(target, workers=1, factory=local)


def test_a_factory_that_workers_cannot_import_is_refused(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("only_here")
    exec("def make(task, target): ...", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with (
        LocalPool(target, workers=1, factory=module.make) as pool,
        pytest.raises(MeasureError, match="only_here"),
    ):
        measure(pool, Deed.FAST)


def test_workers_that_cannot_start_are_an_error(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(MeasureError, match="none can be started"):
        LocalPool(target, workers=1, factory=make_faulty)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        LocalPool(target, workers=1, factory=make_faulty) as pool,
        pytest.raises(MeasureError, match="die while starting: exit code 1"),
    ):
        measure(pool, Deed.FAST)


def test_no_workers_are_refused(target: Target) -> None:
    with pytest.raises(MeasureError, match="at least one worker"):
        LocalPool(target, workers=0, factory=make_faulty)


def test_close_leaves_no_process(target: Target) -> None:
    with LocalPool(target, workers=2, factory=make_faulty) as pool:
        measure(pool, Deed.FAST)
        pids = pids_of(pool)
        assert len(pids) >= 2
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)
    assert pids_of(pool) == []
    pool.close()
    with pytest.raises(MeasureError, match="closed"):
        measure(pool, Deed.FAST)


@contextmanager
def tuner(deed: Deed) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Another process that measures a candidate which hangs, and the workers it has."""
    code = (
        "import math, time, numpy as np\n"
        "from tests.measure.spaces import *\n"
        "from tilewright.measure.pool import LocalPool\n"
        "from tilewright.target import Target\n"
        "pool = LocalPool(Target.parse(), workers=1, factory=make_faulty, build_timeout=600, run_timeout=600)\n"
        "space = make_faulty(make_task(), pool.target)\n"
        "def go(deed):\n"
        "    return pool.measure(space, np.array([config(deed)], np.int32), math.inf, time.monotonic() + 600)\n"
        "go(Deed.FAST)\n"
        "print(*pids_of(pool), flush=True)\n"
        f"go(Deed.{deed.name})\n"
    )
    with started([sys.executable, "-c", code]) as process:
        assert process.stdout is not None
        yield process, [int(pid) for pid in process.stdout.readline().split()]


@pytest.mark.parametrize("deed", [Deed.HANG_IN_BUILD, Deed.HANG_IN_RUN])
@pytest.mark.parametrize("stopped", [False, True])
def test_workers_die_with_the_tuner(deed: Deed, stopped: bool) -> None:
    with tuner(deed) as (process, pids):
        assert pids
        time.sleep(0.5)  # to be in the midst of it; what is tested holds at any time
        assert all(alive(pid) for pid in pids)
        for pid in pids if stopped else []:  # as replacements are during the timing phase
            os.kill(pid, signal.SIGSTOP)
        process.kill()
        process.wait()
        assert wait_until(lambda: not any(alive(pid) for pid in pids))


def test_candidates_that_another_pool_has_compiled(shared: LocalPool, single: LocalPool) -> None:
    space = FaultySpace(make_task())
    good, wrong = config(Deed.FAST, 1), config(Deed.WRONG, 1)
    rows = np.asarray([good, wrong, config(Deed.BAD_COMPILE)], dtype=np.int32)
    libraries = shared.compile(space, rows, time.monotonic() + LONG)
    assert set(libraries) == {good, wrong}
    found = single.measure(space, rows[:2], math.inf, time.monotonic() + LONG, libraries)
    assert [m.outcome for m in found] == [Outcome.OK, Outcome.WRONG_RESULT]
    swapped = libraries | {good: libraries[wrong]}
    (loaded,) = single.measure(space, rows[:1], math.inf, time.monotonic() + LONG, swapped)
    assert loaded.outcome is Outcome.WRONG_RESULT  # it was not compiled again
    damaged = libraries | {good: replace(libraries[good], content=b"no library")}
    (compiled,) = single.measure(space, rows[:1], math.inf, time.monotonic() + LONG, damaged)
    assert compiled.ok
    assert len(shared.compile(space, rows[:2], time.monotonic() - 1.0)) == 0
