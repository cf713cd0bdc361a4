"""Messages about records and the cache, which are shown to people in the process that trains."""

from __future__ import annotations

import re

__all__ = ["Notes"]


class Notes:
    """Collects messages. Each is given out once."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._known: set[str] = set()

    def add(self, text: str, about: str = "") -> None:
        """Add a message, if it is the first one ``about`` something.

        Without ``about``, it is not added if an earlier one differs from it in numbers only.
        """
        key = about or re.sub(r"\d+", "", text)
        if key not in self._known:
            self._known.add(key)
            self._waiting.append(text)

    def take(self) -> tuple[str, ...]:
        """The messages that nobody has taken yet."""
        taken = tuple(self._waiting)
        self._waiting.clear()
        return taken
