"""A private PostgreSQL server for tests: of Debian's package, in a directory of its own, on a Unix socket only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import create_engine

__all__ = ["Server", "in_memory", "missing", "running"]

#: Servers refuse to run as root, so root runs them as one of these.
_ACCOUNTS = ("postgres", "nobody")


def missing() -> str | None:
    """What a test that needs a server lacks; None: nothing."""
    if find_spec("psycopg") is None:
        return "needs psycopg: pip install 'tilewright[postgresql]'"
    if _binaries() is None:
        return "needs a PostgreSQL server (Debian: apt-get install postgresql)"
    return None


def in_memory() -> str | None:
    """A directory in memory, for files that are flushed a thousand times; None where there is none of some size."""
    shared = Path("/dev/shm")
    return str(shared) if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2**30 else None


class Server:
    """A server.

    Args:
        folder: an empty directory, of a short name: a socket's path is at most 107 bytes long.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = (f"records{number}" for number in count())
        self._as_user = _unprivileged(folder)
        self._data = folder / "data"
        initdb = f"{_binaries()}/initdb -D {self._data} -U tester -A trust -E UTF8 --locale=C --no-sync"
        subprocess.run([*self._as_user, *initdb.split()], check=True, stdout=subprocess.DEVNULL, cwd="/")
        self.start()

    def start(self) -> None:
        """Start, and wait until it serves."""
        # fsync stays on, as in life. What processes share goes with the directory, also after a kill.
        postgres = f"{_binaries()}/postgres -D {self._data} -k {self.folder} -c listen_addresses="
        postgres += " -c autovacuum=off -c dynamic_shared_memory_type=mmap"
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen([*self._as_user, *postgres.split()], stdout=log, stderr=log, cwd="/")
        for _ in range(600):
            ready = [f"{_binaries()}/pg_isready", "-q", "-h", str(self.folder)]
            if subprocess.run(ready, check=False).returncode == 0:
                return
            try:
                self._process.wait(0.05)
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.kill()
        self._process.wait()
        raise RuntimeError(f"the server did not start: {(self.folder / 'log').read_text(errors='replace')}")

    def kill(self) -> None:
        """End at once, whatever clients it has; nothing is written any more, and the next start recovers."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)

    def url(self, database: str = "postgres", user: str = "tester") -> str:
        return f"postgresql://{user}@/{database}?host={quote(str(self.folder))}"

    def empty(self) -> str:
        """The URL of a new, empty place: a schema, which is made faster than a database."""
        name = next(self._names)
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url()}&options=-csearch_path%3D{name}"

    def execute(self, *statements: str, url: str | None = None) -> None:
        """Run statements outside of any transaction."""
        address = (url or self.url()).replace("postgresql:", "postgresql+psycopg:")
        engine = create_engine(address, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()


@contextmanager
def running() -> Iterator[Server]:
    """A new server, which ends with the block. Only where nothing is :func:`missing`."""
    # Not under pytest's directory, which other accounts may not enter.
    with tempfile.TemporaryDirectory(prefix="tilewright-", dir=in_memory()) as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.kill()


def _binaries() -> Path | None:
    """The directory of ``initdb`` and ``postgres``, which Debian keeps out of the PATH; None where there is none."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def _unprivileged(folder: Path) -> list[str]:
    """What to put before a command: it ends with this process, however that ends, and does not run as root."""
    ends = ["setpriv", "--pdeathsig=QUIT"]
    if os.geteuid() != 0:
        return ends
    account = next(account for account in pwd.getpwall() if account.pw_name in _ACCOUNTS)
    os.chown(folder, account.pw_uid, account.pw_gid)
    folder.chmod(0o755)
    return [*ends, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
