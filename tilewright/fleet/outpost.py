"""The node's side of a job away from the head: its files, the process that does it, and their messages.

A job is a whole tuning: it reads the model, decides what is tried, and builds and judges the executable. All of that
runs code for its kind of machine, so it happens on a node of that kind. An outpost knows nothing of Ray.

Head -> outpost: the files of the job, then what begins it, then answers to its questions
outpost -> head: what the job says, in order; in the end the files that it made
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections import deque
from pathlib import Path

from tilewright.errors import MeasureError
from tilewright.measure.process import ChildProcess, Lost
from tilewright.scratch import make_folder

__all__ = ["Ended", "Outpost"]


class Ended(Lost):
    """The last message of a job: its process has ended."""


class Outpost:
    """Does one job in a process of its own.

    Args:
        cores: how many threads code runs on.
    """

    def __init__(self, cores: int) -> None:
        self._variables = {"OMP_NUM_THREADS": str(cores)}  # Ray sets 1 for an actor that asks for no cores
        self._folder, self._lock = make_folder()
        self._process: ChildProcess | None = None
        self._changed = threading.Condition()
        self._last = 0
        self._messages: deque[tuple[int, object]] = deque()

    def write(self, name: str, content: bytes) -> None:
        """Append to a file of the job. ``name``: its path in the job's folder."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(content)

    def begin(self, module: str, message: object) -> None:
        """Start the process of the job.

        Args:
            module: its function ``main`` does the job. It is given the connection and the job's folder.
            message: the first one that it receives.

        Raises:
            MeasureError: it cannot be started.
        """
        purpose = "tuning on a node needs a process"
        self._process = ChildProcess(purpose, module, (str(self._folder),), self._variables)
        self._process.send(message)
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def say(self, message: object) -> None:
        """Send the process a message."""
        assert self._process is not None
        self._process.send(message)

    def interrupt(self) -> None:
        """Have the process end early, as Ctrl-C does. Ray blocks SIGINT in all that it starts, but not SIGTERM."""
        if self._process is not None and self._process.alive:
            os.kill(self._process.pid, signal.SIGTERM)

    def collect(self, after: int, wait: float) -> list[tuple[int, object]]:
        """The numbered messages of the process, the last of them an :class:`Ended` if it has ended.

        Args:
            after: the number of the last message that has arrived; messages up to it are forgotten.
            wait: seconds to wait for a message.
        """
        with self._changed:
            while self._messages and self._messages[0][0] <= after:
                self._messages.popleft()
            self._changed.wait_for(lambda: self._messages, wait)
            return list(self._messages)

    def files(self, name: str) -> list[tuple[str, int]]:
        """The names and sizes in bytes of the files in a folder of the job."""
        return [(path.name, path.stat().st_size) for path in sorted(self._path(name).iterdir()) if path.is_file()]

    def read(self, name: str, offset: int, count: int) -> bytes:
        """Bytes of a file of the job."""
        with self._path(name).open("rb") as file:
            file.seek(offset)
            return file.read(count)

    def close(self) -> None:
        """End the process, and remove the files. May be called again."""
        if self._process is not None:
            self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _read(self, process: ChildProcess) -> None:
        while True:
            message = process.receive()
            ended = isinstance(message, Lost)
            with self._changed:
                self._last += 1
                self._messages.append((self._last, Ended(**vars(message)) if ended else message))
                self._changed.notify_all()
            if ended:
                return

    def _path(self, name: str) -> Path:
        path = self._folder / name
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise MeasureError(f"the files of a job are in its folder, but {name!r} is not")
        return path
