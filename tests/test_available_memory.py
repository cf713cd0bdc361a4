"""How much memory a process can still have: of the machine, of its control groups, of its own limit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilewright.available_memory import available_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_what_the_system_says(tmp_path: Path) -> None:
    meminfo = "MemTotal: 100 kB\nMemAvailable:   40 kB\nSwapFree: 2 kB\n"
    assert available_memory(write(tmp_path, {"proc/meminfo": meminfo})) == 42 << 10


def test_a_control_group_of_version_2_takes_its_cache_back(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a"
    files = {
        "proc/self/cgroup": "0::/a\n",
        f"{group}/memory.max": "1000\n",
        f"{group}/memory.current": "700\n",
        f"{group}/memory.stat": "anon 500\nfile 200\nshmem 0\n",
    }
    assert available_memory(write(tmp_path, files)) == 500
    assert available_memory(write(tmp_path, {f"{group}/memory.max": "max\n"})) == MACHINE


def test_a_control_group_of_version_1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/a"
    files = {
        "proc/self/cgroup": "3:memory:/a\n",
        f"{group}/memory.limit_in_bytes": "1000\n",
        f"{group}/memory.usage_in_bytes": "1300\n",
        f"{group}/memory.stat": "cache 7\ntotal_cache 100\n",
    }
    assert available_memory(write(tmp_path, files)) == 0


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == MACHINE


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_limit_of_addresses() -> None:
    program = (
        "import resource; from tilewright.available_memory import available_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); print(available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 1 << 30
