"""A clock for tests of what a training's steps take."""

from __future__ import annotations


class Clock:
    """Time that passes only when somebody sleeps. Stands for the module ``time``."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.slept.append(seconds)
