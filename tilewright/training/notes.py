"""What went wrong with records and the cache, to be told to people where the model trains."""

from __future__ import annotations

import re

__all__ = ["Notes"]


class Notes:
    """Texts, each of which is told once."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._known: set[str] = set()

    def add(self, text: str, about: str = "") -> None:
        """Tell a text, if it is the first one about something; without ``about``, if it is new but for its numbers."""
        key = about or re.sub(r"\d+", "", text)
        if key not in self._known:
            self._known.add(key)
            self._waiting.append(text)

    def take(self) -> tuple[str, ...]:
        """The texts that nobody has taken yet."""
        taken = tuple(self._waiting)
        self._waiting.clear()
        return taken
