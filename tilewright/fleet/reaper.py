"""Ends the cluster that this process has started, also when this process is killed.

Most of Ray's processes end with their parent. Two agents of Ray 2.60 take a minute, and its files stay. So a small
process waits at a pipe. If the pipe closes without a word, the head has died, and the reaper ends what has the mark.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

__all__ = ["reaping"]

#: In the environment of every process of the cluster.
_MARK = "TILEWRIGHT_FLEET"
#: The reaper ends when it has found nothing for 2 s, because some processes may just be starting others.
_PROGRAM = """
import os, shutil, signal, sys, time
mark, folder = sys.argv[1].encode(), sys.argv[2]
if not sys.stdin.buffer.read():
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read().split(b"\\0"):
                        os.kill(int(name), signal.SIGKILL)
                        end = time.monotonic() + 2.0
            except OSError:
                pass
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)
"""


@contextlib.contextmanager
def reaping(folder: str) -> Iterator[None]:
    """Mark the processes that are started in this block, and have them ended if this process dies in it.

    Args:
        folder: with the cluster's files, which is removed then.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    mark = f"{_MARK}={uuid.uuid4().hex}"
    reaper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, mark, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # no signal of the terminal ends it
        cwd="/",
    )
    assert reaper.stdin is not None
    os.environ[_MARK] = mark.partition("=")[2]
    try:
        yield
    finally:
        del os.environ[_MARK]
        with contextlib.suppress(OSError):
            reaper.stdin.write(b"done")
            reaper.stdin.close()
        reaper.wait()
