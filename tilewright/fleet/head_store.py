"""The head as a job on a node sees it: somebody to tell how it goes, and to ask for records.

Only the head opens the store. Messages of a job are pairs of a word and a value:

    ("add", measurements)  ("describe", task)           for the records
    ("ask", (number, method, arguments))                a question to the records; the answer has the same number
    others                                              for whoever shows how the job goes
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, cast

from tilewright.errors import RecordsError
from tilewright.measure.outcome import Measurement
from tilewright.records.store import Query, Store
from tilewright.task import Task

__all__ = ["HeadLine", "HeadStore", "note_records"]

#: The answer to a question: its number, whether it failed, and what was asked for, or why it failed.
_Answer = tuple[int, bool, Any]


class HeadLine:
    """The job's end of the connection to the head.

    Two threads send and receive. An interrupt, which arrives in the main thread, never tears a message apart.

    Args:
        connection: to the outpost. Only answers to questions arrive there.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._words: SimpleQueue[tuple[str, object] | None] = SimpleQueue()
        self._answers: SimpleQueue[_Answer | None] = SimpleQueue()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()
        threading.Thread(target=self._receive, daemon=True).start()

    def say(self, word: str, value: object) -> None:
        """Tell the head something. Messages arrive in order."""
        self._words.put((word, value))

    def answer(self, number: int) -> Any:
        """Wait for the answer to a question.

        Raises:
            RecordsError: the head has refused it, or is gone.
        """
        while (answer := self._answers.get()) is not None:
            if answer[0] == number:  # others are of questions whose asker was interrupted
                if answer[1]:
                    raise RecordsError(str(answer[2]))
                return answer[2]
        raise RecordsError("the head that keeps the records is gone; run the same command again")

    def close(self) -> None:
        """Wait until all is sent."""
        self._words.put(None)
        self._sender.join()

    def _send(self) -> None:
        _leave_signals()
        with contextlib.suppress(OSError):  # without a head, this process is about to be ended
            while (message := self._words.get()) is not None:
                self._connection.send(message)

    def _receive(self) -> None:
        _leave_signals()
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._answers.put(cast("_Answer", self._connection.recv()))
        self._answers.put(None)


def _leave_signals() -> None:
    """Let signals go to the main thread: one that another thread receives does not end the main thread's waiting."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


class HeadStore:
    """The head's records. A :class:`~tilewright.records.store.Store`.

    ``add`` and ``describe`` do not wait, since the head's store refuses nothing
    (:class:`~tilewright.records.fallback.FallbackStore`). What a job tells after ``add`` arrives after it.

    Args:
        line: to the head.
    """

    def __init__(self, line: HeadLine) -> None:
        self._line, self._numbers = line, count(1)

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Keep all measurements."""
        self._line.say("add", tuple(measurements))

    def best(self, task: str, target: str, template: str, count: int) -> list[Measurement]:
        """The fastest OK measurements with different configs, fastest first."""
        return cast("list[Measurement]", self._ask("best", task, target, template, count))

    def scan(self, query: Query) -> Iterator[Measurement]:
        """The measurements that match ``query``, in the order they were added."""
        return iter(cast("list[Measurement]", self._ask("scan", query)))

    def describe(self, task: Task) -> None:
        """Keep the task of a key."""
        self._line.say("describe", task)

    def tasks(self) -> list[Task]:
        """The tasks with a known ``ir``, ordered by key."""
        return cast("list[Task]", self._ask("tasks"))

    def close(self) -> None:
        """Do nothing: the head closes its store."""

    def _ask(self, method: str, *arguments: object) -> object:
        number = next(self._numbers)
        self._line.say("ask", (number, method, arguments))
        return self._line.answer(number)


def note_records(store: Store, word: str, value: object) -> _Answer | None:
    """The head's side: do with ``store`` what a message asks for. Returns the answer; None: it needs none."""
    if word == "add":
        store.add(cast("Sequence[Measurement]", value))
    elif word == "describe":
        store.describe(cast("Task", value))
    elif word == "ask":
        number, method, arguments = cast("tuple[int, str, tuple[Any, ...]]", value)
        asked: dict[str, Callable[..., Any]] = {"best": store.best, "scan": store.scan, "tasks": store.tasks}
        try:
            return number, False, list(asked[method](*arguments))
        except RecordsError as error:
            return number, True, str(error)
    return None
