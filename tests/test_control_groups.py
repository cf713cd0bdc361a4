"""Which control groups a process is in, and how many cores it may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tilewright.control_groups import control_groups
from tilewright.tvm_compat import usable_cores


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 cores."""
    (tmp_path / "proc/self").mkdir(parents=True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return tmp_path


def group(root: Path, path: str, **limits: str) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, limit in limits.items():
        (folder / f"cpu.{name}").write_text(limit + "\n")


def test_groups_are_listed_from_the_top_down(root: Path) -> None:
    assert control_groups("cpu", root) == []
    (root / "proc/self/cgroup").write_text("4:memory:/x\n3:cpu,cpuacct:/a/b\n0::/\n")
    top = root / "sys/fs/cgroup"
    cpu = top / "cpu,cpuacct"
    assert control_groups("cpu", root) == [cpu, cpu / "a", cpu / "a/b", top]
    assert control_groups("memory", root) == [top / "memory", top / "memory/x", top]


def test_without_quotas_all_cores_are_usable(root: Path) -> None:
    assert usable_cores(root) == 16
    (root / "proc/self/cgroup").write_text("0::/service\n")
    group(root, "service", max="max 100000")
    assert usable_cores(root) == 16


def test_the_least_quota_of_all_groups_above_counts(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/user/scope\n")
    group(root, "user", max="200000 100000")
    group(root, "user/scope", max="400000 100000")
    assert usable_cores(root) == 2


def test_quotas_of_version_1(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("3:cpu,cpuacct:/docker/abc\n")
    group(root, "cpu,cpuacct", cfs_quota_us="-1", cfs_period_us="100000")
    assert usable_cores(root) == 16
    group(root, "cpu,cpuacct/docker/abc", cfs_quota_us="50000", cfs_period_us="100000")
    assert usable_cores(root) == 1


def describe(root: Path, cpu: int, siblings: str, capacity: int | None = None) -> None:
    folder = root / f"sys/devices/system/cpu/cpu{cpu}"
    (folder / "topology").mkdir(parents=True)
    (folder / "topology/thread_siblings_list").write_text(siblings + "\n")
    if capacity is not None:
        (folder / "cpu_capacity").write_text(f"{capacity}\n")


def test_hyper_threads_of_a_core_count_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(16):
        describe(root, cpu, f"{cpu % 8},{cpu % 8 + 8}")
    assert usable_cores(root) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 8, 9, 12})  # as taskset leaves them
    assert usable_cores(root) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {8})
    assert usable_cores(root) == 1


def test_lists_of_hyper_threads_may_have_ranges(root: Path) -> None:
    for cpu in range(16):
        describe(root, cpu, f"{cpu - cpu % 4}-{cpu - cpu % 4 + 3}")
    assert usable_cores(root) == 4
    group(root, "", max="200000 100000")
    (root / "proc/self/cgroup").write_text("0::/\n")
    assert usable_cores(root) == 2  # the quota is of processor time


def test_little_cores_do_not_count(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(16):
        describe(root, cpu, str(cpu), 1024 if cpu < 4 else 700 if cpu < 8 else 250)
    assert usable_cores(root) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {8, 9, 10})
    assert usable_cores(root) == 3  # they are the best that there are
