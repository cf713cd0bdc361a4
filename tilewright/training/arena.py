"""The memory of intermediate results, which the executables of all parts share."""

from __future__ import annotations

import weakref

from tilewright.executable.memory import Arena

__all__ = ["find_arena"]

_arenas: weakref.WeakValueDictionary[str, Arena] = weakref.WeakValueDictionary()


def find_arena() -> Arena:
    """The arena of all parts of this process. They can share it because a step runs one part at a time."""
    arena = _arenas.get("parts")
    if arena is None:
        arena = _arenas["parts"] = Arena()
    return arena
