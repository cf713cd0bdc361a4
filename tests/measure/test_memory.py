"""How much memory there is, and how much of it a worker may have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import started
from tilewright.errors import MeasureError
from tilewright.measure import memory
from tilewright.measure.memory import held, in_words, usable_memory, worker_share
from tilewright.measure.pool import LocalPool
from tilewright.target import Target

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
GIB = 1 << 30


def system(root: Path, group: str, **limits: str) -> Path:
    """Control groups as the kernel shows them: a limit by path, with dots for slashes."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group)
    for path, limit in limits.items():
        file = root / "sys/fs/cgroup" / path.replace("__", "/").replace("_max", ".max").replace("_limit", ".limit")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit + "\n")
    return root


def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert usable_memory(tmp_path) == MACHINE
    assert 0 < usable_memory() <= MACHINE


def test_the_lowest_limit_of_all_groups_above_counts(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/user/task\n", user__memory_max="1000000", user__task__memory_max="max")
    assert usable_memory(root) == 1_000_000


def test_in_a_container_only_the_top_is_to_be_seen(tmp_path: Path) -> None:
    assert usable_memory(system(tmp_path, "0::/docker/abc\n", memory_max="5000000")) == 5_000_000


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    groups = "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n"
    root = system(tmp_path, groups, memory__memory_limit_in_bytes=str(1 << 62), memory__x__memory_limit_in_bytes="7000")
    assert usable_memory(root) == 7000


@pytest.mark.parametrize(
    ("machine", "workers", "share"),
    [(24 * GIB, 2, 8 * GIB), (8 * GIB, 8, 2 * GIB), (3 * GIB, 2, 3 * GIB // 2), (256 * GIB, 63, 4 * GIB)],
)
def test_a_workers_share(monkeypatch: pytest.MonkeyPatch, machine: int, workers: int, share: int) -> None:
    monkeypatch.setattr(memory, "usable_memory", lambda: machine)
    assert worker_share(workers) == share


def test_what_a_process_has() -> None:
    code = "b = b'x' * (64 << 20); print(len(b), flush=True); del b; print(1, flush=True); input()"
    with started([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        now, most = held(process.pid)
        process.communicate("\n")
    assert 64 << 20 < most < 256 << 20
    assert 1 << 20 < now < 64 << 20
    assert held(process.pid) == (0, 0)


def test_too_little_for_a_compiler_is_refused() -> None:
    with pytest.raises(MeasureError, match="256 MiB of memory for its compiler alone, but is allowed 16 MiB"):
        LocalPool(Target("x", 1, "", (), 8, 16, 1, 1, 1, ""), memory=16 << 20)


def test_in_words() -> None:
    assert (in_words(3 << 29), in_words(300 << 20)) == ("1.50 GiB", "300 MiB")
