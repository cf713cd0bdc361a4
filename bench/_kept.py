"""Results that a bench keeps one by one in a file, so that it goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench._resumable import mend

__all__ = ["Kept"]


class Kept:
    """Results by part and name. Each is a line of a file, which is written as soon as the result is known.

    A later line of the same part and name replaces an earlier one. Half a line, left by a killed process, is cut off.

    Args:
        path: the file; None: results are in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._found: dict[str, dict[str, dict[str, Any]]] = {}
        if path is not None and path.exists():
            mend(path)
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self._found.setdefault(entry.pop("part"), {})[entry.pop("name")] = entry

    def get(self, part: str, name: str) -> dict[str, Any] | None:
        """The result of a name; None: there is none yet."""
        return self._found.get(part, {}).get(name)

    def all(self, part: str) -> dict[str, dict[str, Any]]:
        """All results of a part, by name."""
        return dict(self._found.get(part, {}))

    def add(self, part: str, name: str, entry: dict[str, Any]) -> None:
        """Keep a result."""
        self._found.setdefault(part, {})[name] = entry
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"part": part, "name": name, **entry}) + "\n")
