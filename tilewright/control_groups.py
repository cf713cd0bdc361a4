"""The control groups of this process, on systems that have them: who else may limit what it uses."""

from __future__ import annotations

from pathlib import Path

__all__ = ["control_groups"]


def control_groups(controller: str, root: Path = Path("/")) -> list[Path]:
    """The directories of the groups that this process is in, for one controller, of either version, from the top down.

    A limit holds for all groups below its own. In a container the path may be the host's: then only the top is there.
    A directory that is named need not exist.

    Args:
        controller: such as ``cpu`` or ``memory``.
        root: where ``proc`` and ``sys`` are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")  # 4:cpu,cpuacct:/group, or 0::/group in version 2
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        group = root / "sys/fs/cgroup" / controllers
        for part in ["", *path.strip("/").split("/")]:
            group = group / part
            found.append(group)
    return list(dict.fromkeys(found))
