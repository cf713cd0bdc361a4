"""A cluster of Ray on this machine, for benchmarks and tests."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tilewright.fleet.machine import NODE_BUILDER, NODE_TARGET

__all__ = ["LocalCluster", "alive", "cluster", "missing"]

ROOT = Path(__file__).parents[1]
#: Seconds in which a node of Ray has started: 8 on a quiet machine.
_START = 120.0


def missing() -> str | None:
    """What a test that needs a cluster lacks; None: nothing."""
    return None if find_spec("ray") else "needs ray: pip install 'tilewright[fleet]'"


@dataclass
class LocalCluster:
    """Nodes that were started here. All of their processes have a mark in their environment, and end with the block.

    Attributes:
        folder: for all their files.
        address: of the head.
        client: the address of its client server; empty: it has none.
        mark: a variable of the environment, which all processes of the cluster inherit.
    """

    folder: Path
    address: str = ""
    client: str = ""
    mark: tuple[str, str] = field(default_factory=lambda: ("TILEWRIGHT_BENCH_CLUSTER", uuid.uuid4().hex))
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes, and of commands that use it."""
        ours = {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_enable_metrics_collection": "0",
        }
        return {**os.environ, **ours}

    def start(
        self,
        cores: int = 1,
        client: bool = False,
        pinned: int | None = None,
        counts_as: str = "",
        builder: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a node, the head first.

        Args:
            cores: of the node.
            client: whether there is a client server, too.
            pinned: the core of the machine that it runs on.
            counts_as: the CPU that it counts as; empty: its own.
            builder: whether it only builds.
        """
        # A node ends with the process that started it, however that ends; in their turn its processes end with it.
        command = ["setpriv", "--pdeathsig=TERM"] if shutil.which("setpriv") else []
        command += [] if pinned is None else ["taskset", "-c", str(pinned)]
        command += [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += [f"--num-cpus={cores}", f"--object-store-memory={80 << 20}"]
        # Nobody here uses the autoscaler or the sender of logs, and each would be a process that imports Ray.
        command += ["--no-monitor", "--include-log-monitor=false"]
        if not self.nodes:
            (self.folder / "token").write_text(secrets.token_hex(32))
            (self.folder / "token").chmod(0o600)
            port, client_port = _free_port(), _free_port()
            command += ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}"]
            command += [f"--ray-client-server-port={client_port}"] if client else []
            self.address = f"127.0.0.1:{port}"
            self.client = f"ray://127.0.0.1:{client_port}" if client else ""
        else:
            command += [f"--address={self.address}"]
        with (self.folder / f"node{len(self.nodes)}.log").open("wb") as log:
            environment = {**self.environment, self.mark[0]: self.mark[1]}
            environment |= {NODE_TARGET: counts_as} if counts_as else {}
            environment |= {NODE_BUILDER: "1"} if builder else {}
            node = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(node)
        wanted = b"Ray runtime started"
        until = time.monotonic() + _START
        while wanted not in Path(log.name).read_bytes():
            if node.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the node did not start: {Path(log.name).read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        return node

    def pids(self, name: str = "") -> list[int]:
        """The processes of the cluster that live, those whose command line has a text."""
        found = []
        mark = "=".join(self.mark).encode()
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if (
                    mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                    and name.encode() in line
                    and alive(pid)
                ):
                    found.append(pid)
        return found

    def kill_node(self, node: subprocess.Popen[bytes]) -> None:
        """Kill a node with ``kill -9``: its raylet and its starter; what they have started is to end by itself."""
        for pid in self.pids("raylet/raylet"):
            if os.getsid(pid) == node.pid:
                os.kill(pid, signal.SIGKILL)
        node.kill()
        node.wait()

    def stop(self) -> None:
        """End all processes."""
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(10.0)
        until = time.monotonic() + 20.0
        while (left := self.pids()) and time.monotonic() < until:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for node in self.nodes:
            node.wait()


@contextmanager
def cluster(*cores: int, client: bool = False, pinned: bool = False) -> Iterator[LocalCluster]:
    """A cluster with a node for each number of cores, which ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="twf-", dir="/tmp"))  # sockets' paths are at most 107 bytes long
    made = LocalCluster(folder)
    try:
        for number, count in enumerate(cores):
            made.start(count, client, number % (os.cpu_count() or 1) if pinned else None)
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])
