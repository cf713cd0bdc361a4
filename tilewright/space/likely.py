"""The configs of a design space that are tried first."""

from __future__ import annotations

from tilewright.space.space import Configs, DesignSpace

__all__ = ["find_likely"]


def find_likely(space: DesignSpace, count: int) -> Configs:
    """The default first, then what the space takes for nearly as good. ``(at most count, knobs)``.

    Args:
        space: the design space. One that has no method ``likely`` knows its default alone.
        count: at least 1.
    """
    likely = getattr(space, "likely", None)
    found: Configs = space.default()[None] if likely is None else likely(count)
    return found
