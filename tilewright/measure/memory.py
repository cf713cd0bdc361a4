"""Limits of memory: how much a worker may have, how much it has, and what a command needs.

A candidate that exhausts the memory must cost itself, not the machine. The pool looks at its workers' memory 20 times a
second and ends one that has more than its share, because the other ways measure too little or too much:

- ``RLIMIT_AS`` limits addresses, of which a worker has several times what it uses: TVM and LLVM map their libraries
  and reserve room for each thread's stack and heap.
- ``RLIMIT_DATA`` counts private memory whether used or not, so its size depends on the number of threads. At the limit
  the program's reaction varies: a Python error, an abort, a crash at the address 0.
- A control group does it right, but only an administrator can make one.

Between two looks a worker can take some hundred megabytes, as fast as the kernel hands out pages. If the machine runs
out all the same, the kernel ends a worker before any other process (:func:`die_first`).
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

from tilewright.control_groups import control_groups
from tilewright.errors import ResourceError

__all__ = [
    "LOOK_SECONDS",
    "check_memory",
    "die_first",
    "held",
    "in_words",
    "memory_error",
    "usable_memory",
    "worker_share",
]

#: Seconds between two looks.
LOOK_SECONDS = 0.05
#: What a worker may have where that is no more than half of the memory: the largest layers of VGG-19 need 1 GB.
_LEAST = 2 << 30


def worker_share(workers: int) -> int:
    """Bytes that each of so many workers may have by default.

    An equal part of the memory, of which this process has one as well; but 2 GiB (at most half of the memory), since
    that all workers want all of theirs at once is rare.
    """
    memory = usable_memory()
    return max(memory // (workers + 1), min(_LEAST, memory // 2))


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: the machine's, or what its control group has of it.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_own_limits().values()]
    for group in control_groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):  # version 2, version 1
            with contextlib.suppress(OSError, ValueError):  # "max", or no such group
                limits.append(int((group / name).read_text(encoding="ascii")))
    return min(limits)


def check_memory(addresses: int, memory: int) -> None:
    """Refuse a command that would run out of memory, and then crash or fail with an unrelated error.

    Args:
        addresses: bytes of address space that a process maps at least, whether it uses them or not.
        memory: bytes that it uses at least.

    Raises:
        ResourceError: a limit of this process, or its control group, or the machine has less.
    """
    for option, limit in _own_limits().items():
        wanted = addresses if option == "-v" else memory
        if limit < wanted:
            raise ResourceError(
                f"memory is missing: a process of this command needs at least {in_words(wanted)}, but "
                f"`ulimit {option}` is {in_words(limit)}; raise the limit, for example with `ulimit {option} unlimited`"
            )
    if (usable := usable_memory()) < memory:
        raise ResourceError(
            f"memory is missing: this command needs at least {in_words(memory)}, but it may use {in_words(usable)}; "
            "raise the limit of its container or control group, or use a machine with more memory"
        )


def memory_error(doing: str) -> ResourceError:
    """The error to raise if the memory did not suffice for ``doing`` something."""
    limits = [f"`ulimit {option}` allows {in_words(limit)}" for option, limit in _own_limits().items()]
    allowed = " and ".join(limits) or f"it may use {in_words(usable_memory())}"
    return ResourceError(
        f"memory is missing for {doing}: {allowed}; raise the limit, or use a machine with more memory"
    )


def _own_limits() -> dict[str, int]:
    """The limits of a process's memory that are set, by the option that the shell's ``ulimit`` has for them."""
    found = {}
    for option, kind in (("-v", resource.RLIMIT_AS), ("-d", resource.RLIMIT_DATA)):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            found[option] = soft
    return found


def held(pid: int) -> tuple[int, int]:
    """The bytes of memory that a process has, those that were swapped out included, and the most it has had.

    Zeros where there is no such process any more, or the system does not tell.
    """
    now = most = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(("VmRSS:", "VmSwap:")):
                now += int(line.split()[1]) << 10
            elif line.startswith("VmHWM:"):
                most = int(line.split()[1]) << 10
    return now, most


def die_first() -> None:
    """Let the kernel end this process before others when memory runs out."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def in_words(count: int) -> str:
    """A number of bytes, for people."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"
