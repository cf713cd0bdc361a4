"""Which control groups a process is in, and how many cores their quotas leave."""

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
