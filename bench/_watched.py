"""A process that answers questions one by one, and is started again after it crashed, hung or grew old."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from tilewright.errors import MeasureError
from tilewright.measure.isolated import IsolatedError, IsolatedProcess

__all__ = ["Watched"]

#: Seconds that starting a process and making its object may take on a busy machine.
_START_SECONDS = 300.0


class Watched:
    """An object in a process of its own, whose methods give dictionaries.

    Args:
        factory: makes the object; a function or a class of an importable module.
        seconds: an answer is due within; otherwise the process is ended.
        renewed: answers after which the process is started again, since libraries that were loaded stay in memory.
        variables: environment variables that only this process gets.

    Attributes:
        restarts: how often the process was started again because it crashed or hung.
    """

    def __init__(
        self,
        factory: Callable[[], object],
        seconds: float,
        renewed: int = 200,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.restarts = 0
        self._factory, self._seconds, self._renewed, self._variables = factory, seconds, renewed, variables
        self._process: IsolatedProcess | None = None
        self._answers = 0

    def __enter__(self) -> Watched:
        """Nothing is started yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self.end()

    def ask(self, method: str, *arguments: object) -> dict[str, Any]:
        """What a method returns; ``{"outcome": "crashed", "message": ...}`` if it gives no answer.

        Raises:
            MeasureError: no process can be started, or the object cannot be made.
        """
        if self._process is None or self._answers >= self._renewed:
            self.end()
            self._process = IsolatedProcess(self._factory, (), self._variables)
            self._process.wait(_START_SECONDS)
            self._answers = 0
        self._answers += 1
        try:
            answer: dict[str, Any] = self._process.call(method, *arguments, seconds=self._seconds)
        except IsolatedError as error:
            self.restarts += 1
            self.end()
            return {"outcome": "crashed", "message": str(error), "died": True}
        except MeasureError as error:  # the method raised
            return {"outcome": "crashed", "message": str(error)}
        return answer

    def end(self) -> None:
        """End the process; the next question starts another one."""
        if self._process is not None:
            self._process.kill()
            self._process = None
