"""Connects to a cluster of Ray, or starts one on this machine.

Ray's messages are turned into errors of one line with the remedy. Ray sends no usage statistics from here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tilewright.errors import FleetError, MissingExtraError
from tilewright.fleet.reaper import reaping
from tilewright.tvm_compat import wanted_threads

if TYPE_CHECKING:
    from tilewright.fleet.ray_crew import RayCrew

__all__ = ["check_address", "connected", "joining", "translate"]

#: Seconds within which the head of a cluster takes a connection.
_CONNECT = 5.0
#: What Ray is told before it is imported: no usage statistics, and no accelerators, which are not asked for.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
}
#: Bytes of shared memory of a cluster that is started here. Works and news are small and need none.
_OBJECT_STORE = 80 << 20
#: The longest path of a Unix socket in bytes, less what Ray appends to its directory.
_LONGEST = 107 - 65

_TOKEN = "copy ~/.ray/auth_token from its head to this machine, and set RAY_AUTH_MODE=token before the command"
_RULE = "--fleet is ray://HOST:10001, HOST:6379, auto or local"


def check_address(address: str) -> None:
    """Refuse an address at which there is no cluster, before anything heavy is imported.

    Raises:
        FleetError: the text has not the form of an address, or nobody answers there.
        MissingExtraError: Ray is not installed.
    """
    place = _place(address)
    if address not in ("auto", "local") and place is None:
        raise FleetError(f"{_RULE}, but this is {address!r}; correct it")
    if sys.modules.get("ray", sys) is None or find_spec("ray") is None:
        raise MissingExtraError("ray", "fleet")
    if place is not None:
        _knock(address, *place)


@contextlib.contextmanager
def connected(address: str, namespace: str = "") -> Iterator[RayCrew]:
    """Connect to a cluster for the duration of a block.

    Args:
        address: ``ray://HOST:PORT``, the port of Ray's client server; ``HOST:PORT``, of a cluster that this machine is
            a node of; ``auto``, the cluster that this machine is a node of, or a new one; ``local``, a new one.
        namespace: of the actors that another process has started; by default this process starts them.

    Raises:
        FleetError: there is no cluster, or it has another version of Ray or Python.
        MissingExtraError: Ray is not installed.
    """
    check_address(address)
    if address == "auto" and not _is_node():
        address = "local"
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    if address == "local" and not any(name.startswith("RAY_AUTH_") for name in os.environ):
        # Who can speak to a cluster can run code on it. So a new one has a token of its own, which this process and
        # those that it starts know; Ray itself would write one into the user's home. It looks when it is imported.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray

    from tilewright.fleet.ray_crew import RayCrew

    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        _start(address, namespace or f"tilewright-{uuid.uuid4().hex}", stack)
        stack.callback(ray.shutdown)
        crew = RayCrew(owner=not namespace)
        stack.callback(crew.close)
        yield crew


def joining(address: str) -> tuple[str, str]:
    """The address and the namespace by which other processes of this machine join this one's connection."""
    import ray

    context = ray.get_runtime_context()
    return (address if address.startswith("ray://") else str(context.gcs_address)), str(context.namespace)


def _start(address: str, namespace: str, stack: contextlib.ExitStack) -> None:
    import ray

    options = {"namespace": namespace, "log_to_driver": False, "logging_level": logging.CRITICAL}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address == "auto":
            with contextlib.suppress(ConnectionError):
                ray.init("auto", **options)
                return
        if address in ("auto", "local"):
            folder = _directory(stack)
            stack.enter_context(reaping(folder))
            ray.init(
                "local",
                num_cpus=wanted_threads(),
                object_store_memory=_OBJECT_STORE,
                include_dashboard=False,
                _temp_dir=folder,
                **options,
            )
        else:
            ray.init(address, **options)
    except Exception as error:
        raise translate(error, address) from error
    finally:
        # Ray's handler ends the process. Ours ends the tuning, and what is ready is written.
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def translate(error: Exception, address: str) -> FleetError:
    """What an error of Ray's means."""
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        found = re.findall(r"(Ray|Python): ?([\w.]+)", text)
        theirs, ours = [", ".join(f"{name} {number}" for name, number in part) for part in (found[:2], found[2:4])]
        return FleetError(
            f"a cluster needs the same versions of Ray and Python everywhere, but {address} has {theirs or 'others'} "
            f"and this machine has {ours or 'others'}; install the same ones (pip install 'ray=={_ours()}')"
        )
    remedy = "look at 'ray status' on its head"
    if "uthenticat" in text:
        remedy = _TOKEN
    elif "client connection timeout" in text:  # Ray's client swallows that its token was refused
        remedy = f"if the cluster has a token, {_TOKEN}; otherwise {remedy}"
    return FleetError(f"the cluster at {address} cannot be used: {text[:300]}; {remedy}")


def _is_node() -> bool:
    """Whether a node of a cluster runs on this machine, or the environment names a cluster.

    Ray finds nodes by their processes, too. But when it is imported it has to be known already whose token to use.
    """
    if os.environ.get("RAY_ADDRESS") or not os.path.isdir("/proc/self"):
        return True
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if file.read().partition(b"\0")[0].endswith(b"/raylet"):
                return True
    return False


def _ours() -> str:
    import ray

    return str(ray.__version__)


def _place(address: str) -> tuple[str, int] | None:
    """Host and port of an address; None: it has none."""
    match = re.fullmatch(r"(?:ray://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):([0-9]{1,5})", address)
    return None if match is None else (match[1].strip("[]"), int(match[2]))


def _knock(address: str, host: str, port: int) -> None:
    """Refuse an address at which nobody answers: Ray itself would try for minutes."""
    try:
        socket.create_connection((host, port), _CONNECT).close()
    except (OSError, OverflowError) as error:
        head = "ray start --head --ray-client-server-port=10001" if address.startswith("ray://") else "ray start --head"
        raise FleetError(
            f"a fleet needs a cluster of Ray, but nobody answers at {address}: {error}; start one there with '{head}', "
            "or use --fleet local"
        ) from error


def _directory(stack: contextlib.ExitStack) -> str:
    """A directory for the files of a cluster that is started here, which go with it."""
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="tw-ray-", dir=parent if len(parent) < _LONGEST - 16 else "/tmp")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal what Ray tells those who write programs for it: its log, its warnings, deaths of actors.

    Ray 2.60 prints deaths to the standard output, whatever it is asked to log. The fleet has its own words for them.
    """
    from ray._private import worker

    logger = logging.getLogger("ray")
    before, printing = logger.level, getattr(worker, "print_to_stdstream", None)
    logger.setLevel(logging.CRITICAL)
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"ray(\.|$)")
            yield
    finally:
        logger.setLevel(before)
        worker.print_to_stdstream = printing
