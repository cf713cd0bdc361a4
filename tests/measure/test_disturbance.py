"""Disturbances that are injected are seen, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from tilewright.measure.disturbance import Counter, Watch, calibrate, machine_counters, preemptions

CGROUP = "nr_periods 10\nnr_throttled {}\nthrottled_usec 5\n"


class Machine:
    """One whose every number can be turned."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stolen = 0.0
        self.throttled = 0.0
        self.work = 1.0
        self.watch = Watch(
            [Counter("stolen time", lambda: self.stolen, 0.1), Counter("throttling", lambda: self.throttled, 0.0)],
            lambda: self.work,
            lambda: 0,
            lambda: self.now,
        )

    def seen(self, happens: Callable[[], None], seconds: float = 0.02, preempted: int = 0) -> tuple[str, ...]:
        self.watch.begin()
        happens()
        self.now += seconds
        return self.watch.end(10, preempted)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def turn(machine: Machine, **values: float) -> Callable[[], None]:
    def happens() -> None:
        for name, value in values.items():
            setattr(machine, name, value)

    return happens


def test_a_quiet_machine_disturbs_nothing(machine: Machine) -> None:
    machine.stolen, machine.throttled = 1000.0, 50.0  # before our time
    for _ in range(100):
        assert machine.seen(turn(machine)) == ()


def test_each_disturbance_is_seen_by_name(machine: Machine) -> None:
    assert machine.seen(turn(machine)) == ()
    assert machine.seen(turn(machine, stolen=0.01)) == ("stolen time",)
    assert machine.seen(turn(machine, throttled=1.0)) == ("throttling",)
    assert machine.seen(turn(machine), preempted=6) == ("preemption",)
    assert machine.seen(turn(machine, work=1.5)) == ("slow clock",)
    machine.work = 1.5
    assert machine.seen(turn(machine, work=1.0)) == ("slow clock",)  # it was slow at the beginning
    assert machine.seen(turn(machine)) == ()


def test_little_does_not_count(machine: Machine) -> None:
    assert machine.seen(turn(machine, stolen=0.01), seconds=1.0) == ()
    assert machine.seen(turn(machine, work=1.05), preempted=5) == ()


def test_a_clock_that_is_lowered_for_good_is_the_clock(machine: Machine) -> None:
    assert machine.seen(turn(machine)) == ()
    seen = [machine.seen(turn(machine, work=1.3)) for _ in range(60)]
    assert seen[0] == ("slow clock",)
    assert seen[-1] == ()


def test_the_counters_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu,cpuacct/jail").mkdir(parents=True)
    stat = tmp_path / "proc/stat"
    stat.write_text("cpu  1 2 3 4 5 6 7 250 9 10\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    (tmp_path / "proc/self/cgroup").write_text("5:memory:/jail\n4:cpu,cpuacct:/jail\n")
    group = tmp_path / "sys/fs/cgroup/cpu,cpuacct/jail/cpu.stat"
    group.write_text(CGROUP.format(3))
    counters = machine_counters(tmp_path)
    assert [counter.name for counter in counters] == ["stolen time", "throttling"]
    assert counters[0].read() == pytest.approx(2.5)
    assert counters[1].read() == 3.0
    group.write_text(CGROUP.format(4))
    assert counters[1].read() == 4.0
    stat.unlink()
    assert counters[0].read() == 0.0


def test_the_control_group_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/of/the/host\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text(CGROUP.format(7))
    [counter] = machine_counters(tmp_path)
    assert counter.read() == 7.0


def test_a_system_that_tells_nothing_has_no_counters(tmp_path: Path) -> None:
    assert machine_counters(tmp_path) == ()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/stat").write_text("cpu  1 2\n")
    (tmp_path / "proc/self/cgroup").write_text("garbage\n")
    assert machine_counters(tmp_path) == ()


def test_this_machine_can_be_watched() -> None:
    watch = Watch()
    watch.begin()
    assert set(watch.end(1, 0)) <= {"stolen time", "throttling", "slow clock"}
    assert preemptions() >= 0


def test_the_fixed_work_is_the_best_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: Iterator[float] = chain([0.0, 5.0, 5.0, 7.0, 7.0, 10.0], repeat(0.0))
    monkeypatch.setattr("tilewright.measure.disturbance.time.perf_counter", lambda: next(readings))
    assert calibrate() == 2.0
