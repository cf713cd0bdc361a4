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

__all__ = ["Server", "missing", "running"]

_ACCOUNTS = ("postgres", "nobody")


def missing() -> str | None:
    """What a test that needs a server lacks; None: nothing."""
    if find_spec("psycopg") is None:
        return "needs psycopg: pip install 'tilewright[postgresql]'"
    if _binaries() is None:
        return "needs a PostgreSQL server (Debian: apt-get install postgresql)"
    return None


def _binaries() -> Path | None:
    """The directory of ``initdb`` and ``postgres``, which Debian keeps out of the PATH; None where there is none."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


class Server:
    """A running server.

    Args:
        folder: where its socket is.
        process: the server.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.process = folder, process
        self._names = (f"records{number}" for number in count())
        self.execute("CREATE DATABASE records")

    def url(self, database: str = "postgres", user: str = "tester") -> str:
        return f"postgresql://{user}@/{database}?host={quote(str(self.folder))}"

    def empty(self) -> str:
        """The URL of a new, empty place: a schema, which is made faster than a database."""
        name = next(self._names)
        self.execute(f"CREATE SCHEMA {name}", self.url("records"))
        return f"{self.url('records')}&options=-csearch_path%3D{name}"

    def execute(self, statement: str, url: str | None = None) -> None:
        """Run a statement outside of any transaction."""
        address = (url or self.url()).replace("postgresql:", "postgresql+psycopg:")
        engine = create_engine(address, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()


@contextmanager
def running() -> Iterator[Server]:
    """A new server, which ends with the block. Only where nothing is :func:`missing`."""
    bin_ = _binaries()
    assert bin_ is not None
    # Not under pytest's directory, which other accounts may not enter; and a socket's path is at most 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="tilewright-") as name:
        folder = Path(name)
        as_user = _unprivileged(folder)
        data = folder / "data"
        initdb = f"{bin_}/initdb -D {data} -U tester -A trust -E UTF8 --locale=C --no-sync".split()
        subprocess.run([*as_user, *initdb], check=True, stdout=subprocess.DEVNULL, cwd="/")
        # Without autovacuum, which would only make timings differ; fsync stays on, as in life.
        postgres = f"{bin_}/postgres -D {data} -k {folder} -c listen_addresses= -c autovacuum=off".split()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*as_user, *postgres], stdout=log, stderr=log, cwd="/")
        try:
            _await(process, bin_, folder)
            yield Server(folder, process)
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nobody will read what it would write to the disk
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _unprivileged(folder: Path) -> list[str]:
    """What to put before a command: servers refuse to run as root. They end with this process, however that ends."""
    ends = ["setpriv", "--pdeathsig=QUIT"]
    if os.geteuid() != 0:
        return ends
    account = next(account for account in pwd.getpwall() if account.pw_name in _ACCOUNTS)
    os.chown(folder, account.pw_uid, account.pw_gid)
    folder.chmod(0o755)
    return [*ends, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]


def _await(process: subprocess.Popen[bytes], bin_: Path, folder: Path) -> None:
    for _ in range(300):
        ready = subprocess.run([bin_ / "pg_isready", "-q", "-h", folder], check=False).returncode == 0
        if ready:
            return
        try:
            process.wait(0.1)
            break
        except subprocess.TimeoutExpired:
            continue
    raise RuntimeError(f"the server did not start: {(folder / 'log').read_text(errors='replace')}")
