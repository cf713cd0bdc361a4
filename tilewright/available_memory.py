"""How much memory this process can still have."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tilewright.control_groups import control_groups

__all__ = ["available_memory"]

#: Of a control group, of version 2 and 1: its limit, what it has, and the entry of ``memory.stat`` that the system can
#: take back.
_FILES = (
    ("memory.max", "memory.current", "file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take: of the machine, of its control groups, and of its own limit of addresses.

    Where the system does not tell, the machine's memory.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(0, min([machine, *_of_machine(root), *_of_groups(root), *_of_addresses(root)]))


def _of_machine(root: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        yield (kibibytes["MemAvailable"] + kibibytes.get("SwapFree", 0)) << 10


def _of_groups(root: Path) -> Iterator[int]:
    for group in control_groups("memory", root):
        for limit, usage, cache in _FILES:
            with contextlib.suppress(OSError, ValueError):  # "max", or no such group
                most = int((group / limit).read_text(encoding="ascii"))
                used = int((group / usage).read_text(encoding="ascii"))
                stat = (group / "memory.stat").read_text(encoding="ascii").split()
                yield most - used + sum(int(n) for name, n in zip(stat[::2], stat[1::2], strict=False) if name == cache)


def _of_addresses(root: Path) -> Iterator[int]:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int((root / "proc/self/statm").read_text(encoding="ascii").split()[0])
            yield limit - pages * os.sysconf("SC_PAGE_SIZE")
