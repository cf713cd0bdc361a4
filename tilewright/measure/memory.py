"""Limits of memory: how much a process may have, how much it has, and what a command needs.

A candidate that exhausts the memory must cost itself, not the machine. So the memory of a child process is looked at
20 times a second, and the process is ended if it has more than its share. The other ways are worse:

- ``RLIMIT_AS`` limits addresses, of which a worker has several times what it uses: TVM and LLVM map their libraries
  and reserve room for each thread's stack and heap.
- ``RLIMIT_DATA`` counts private memory whether used or not, so its size depends on the number of threads. At the limit
  the program's reaction varies: a Python error, an abort, a crash at the address 0.
- A control group is right, but only an administrator can make one.

Between two looks a process can take some hundred megabytes, as fast as the kernel hands out pages. If the machine runs
out of memory all the same, the kernel ends a worker before any other process (:func:`die_first`).
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

#: Seconds between two looks at the memory of a process. A look takes 0.05 ms.
LOOK_SECONDS = 0.05
#: The bytes that a worker may have even if its equal part is less, up to half of the memory. The largest layers of
#: VGG-19 need 1 GB.
_LEAST = 2 << 30


def worker_share(workers: int) -> int:
    """The bytes that each of ``workers`` workers may have by default.

    Workers and this process have equal parts of the memory. A worker has at least 2 GiB, up to half of the memory,
    because workers rarely need all of theirs at the same moment.
    """
    memory = usable_memory()
    return max(memory // (workers + 1), min(_LEAST, memory // 2))


def usable_memory(root: Path = Path("/")) -> int:
    """The bytes of memory that this process may use: the machine's, or the part that its control groups may use.

    Args:
        root: the directory that holds ``proc`` and ``sys``.
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
        addresses: the bytes of address space that a process maps at least, whether it uses them or not.
        memory: the bytes that it uses at least.

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
    """The error to raise if the memory did not suffice for ``doing``, such as "reading model.onnx"."""
    limits = [f"`ulimit {option}` allows {in_words(limit)}" for option, limit in _own_limits().items()]
    allowed = " and ".join(limits) or f"it may use {in_words(usable_memory())}"
    return ResourceError(
        f"memory is missing for {doing}: {allowed}; raise the limit, or use a machine with more memory"
    )


def _own_limits() -> dict[str, int]:
    """The limits of this process's memory that are set, in bytes, by their option of the shell's ``ulimit``."""
    found = {}
    for option, kind in (("-v", resource.RLIMIT_AS), ("-d", resource.RLIMIT_DATA)):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            found[option] = soft
    return found


def held(pid: int) -> tuple[int, int]:
    """The bytes of memory that a process has, including those that were swapped out, and the most it has had.

    Both are 0 if there is no such process any more, or the system does not tell.
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
    """Ask the kernel to end this process before others when memory runs out."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def in_words(count: int) -> str:
    """A number of bytes, for people."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"
