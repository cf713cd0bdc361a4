"""Ctrl-C, SIGTERM and SIGHUP: each ends a command early, and is held back while a step must be whole.

A command *watches* for them (:func:`watching`): each signal is noted and raises ``KeyboardInterrupt``. A step that must
be whole *holds* them (:func:`holding`): the signal is noted, the step goes on, and its caller then decides what to do.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

__all__ = ["Hold", "exit_code", "holding", "watching"]

#: What a terminal sends for Ctrl-C, what containers and schedulers send to end a job, and what a terminal sends when it
#: is closed or its connection is lost. ``nohup`` has the last one ignored, and it stays so.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Hold:
    """The signals that a block holds back.

    Attributes:
        most: the most signals it holds back; later ones raise ``KeyboardInterrupt``. None: all are held back.
        received: the numbers of the signals that came.
        tell: is called at once for each signal.
    """

    most: int | None = None
    received: list[int] = field(default_factory=list)
    tell: Callable[[], None] = lambda: None

    @property
    def open(self) -> bool:
        """Whether it holds back the next signal."""
        return self.most is None or len(self.received) < self.most


#: The holds of the main thread, the innermost last; and the signals that the watching command has noted.
_holds: list[Hold] = []
_noted: list[int] = []


def exit_code() -> int:
    """The exit code of an interrupted command: 128 plus the number of the first signal, as in shells."""
    return 128 + (_noted[0] if _noted else signal.SIGINT)


@contextlib.contextmanager
def watching() -> Iterator[list[int]]:
    """Note each Ctrl-C, SIGTERM and SIGHUP in this block, and raise ``KeyboardInterrupt`` for it unless it is held.

    Yields:
        the numbers of the signals that came, including those whose exception was swallowed.
    """
    if not _ours_to_handle(signal.SIGINT):
        yield []
        return
    _noted.clear()
    before = {number: signal.signal(number, _handle) for number in _SIGNALS if _ours_to_handle(number)}
    try:
        yield _noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def holding(most: int | None = None, tell: Callable[[], None] | None = None) -> Iterator[Hold]:
    """Hold back the first ``most`` signals (None: all) that arrive in this block; nothing is raised at its end.

    Args:
        most: the most signals to hold back.
        tell: is called at once for each signal, from the handler.

    Yields:
        the held signals.
    """
    hold = Hold(most) if tell is None else Hold(most, tell=tell)
    if threading.current_thread() is not threading.main_thread():  # signals do not arrive here
        yield hold
        return
    # Where nobody watches, as in a script that calls the library, a Ctrl-C is held all the same.
    borrowed = _ours_to_handle(signal.SIGINT)
    if borrowed:
        signal.signal(signal.SIGINT, _handle)
    _holds.append(hold)
    try:
        yield hold
    finally:
        _holds.remove(hold)
        if borrowed:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _ours_to_handle(number: int) -> bool:
    """Whether the signal has its default handler: other handlers are left alone."""
    if threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


def _handle(number: int, frame: FrameType | None) -> None:
    _noted.append(number)
    if _holds and _holds[-1].open:
        _holds[-1].received.append(number)
        _holds[-1].tell()
        return
    raise KeyboardInterrupt
